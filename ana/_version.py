"""The version, read by the build as well: nothing else may be here."""

__version__ = "2.0.0.dev0"
