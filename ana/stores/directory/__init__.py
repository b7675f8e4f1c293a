"""The store over a directory on a shared filesystem."""
