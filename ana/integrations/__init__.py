"""Helpers for engines. Each module imports its engine, and nothing else in ana imports these modules."""
