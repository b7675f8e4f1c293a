"""Checks for stores that others write: subclass `StoreContract` in a test module. Needs pytest."""

try:
    import pytest
except ImportError as _error:
    msg = "ana.testing checks stores with pytest, which is not installed: pip install pytest"
    raise ImportError(msg) from _error

# Before the import: pytest then shows the values in an assertion that fails.
pytest.register_assert_rewrite("ana.testing.contract")

from ana.testing.contract import Place, StoreContract  # noqa: E402 - see above

__all__ = ["Place", "StoreContract"]
