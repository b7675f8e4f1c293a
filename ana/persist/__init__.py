"""Objects to states and back: saving, loading, many at once."""
