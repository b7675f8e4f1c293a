"""The version, read by the build as well: nothing else may be here."""

__version__ = "1.0.0"
