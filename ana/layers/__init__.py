"""Layers: save and load objects, over a store and the live objects."""
