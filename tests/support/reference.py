"""The script that makes the reference pages, as a module."""

import importlib.util
import sys

from support.processes import ROOT

__all__ = ["generate"]


def _loaded():
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _loaded()
