"""Objects and their pickles: identity, ghosts, streams."""
