"""Libraries that only some tests want, and that setup.cfg's extra `test` leaves out: they are large."""

import importlib.util

import pytest


def require(*modules, extra="ci"):
    """Skip a test whose libraries are not installed, and say which extra brings them; imports none of them."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"no {module}: pip install -e '.[{extra}]'")
