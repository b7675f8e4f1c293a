"""The cache of large states on a node's own disk."""
