"""Stores: put and get records under keys."""
