"""The public face: which names `ana` offers, and what they cost."""

import pickle
import re
import rlcompleter
from pathlib import Path

import pytest
from support import processes

import ana

PUBLIC = {name for name in ana.__all__ if not name.startswith("_")}


def test_dir_shows_the_public_names_only():
    """`dir(ana)`: those of `__all__`, and what Python itself gives a module."""
    shown = dir(ana)
    assert {name for name in shown if not name.startswith("__")} == PUBLIC
    assert {"__name__", "__version__", "__file__"} <= set(shown)


def test_completion_offers_the_public_names_only():
    """`ana.<TAB>` in the interactive interpreter."""
    completer = rlcompleter.Completer({"ana": ana})
    offered = []
    while (found := completer.complete("ana.", len(offered))) is not None:
        offered.append(found)
    assert {found.removeprefix("ana.").partition("(")[0] for found in offered} == PUBLIC


def test_each_public_name_is_there():
    """`from ana import *` brings all of them."""
    names = {}
    exec("from ana import *", names)
    assert set(ana.__all__) <= names.keys()


def test_stats_are_public_and_cost_nothing_before():
    """`ana.Stats` is what `dl.stats()` returns; `import ana` does not import what it is made with."""
    program = (
        "import sys, ana; print('ana.layers.statistics' in sys.modules); print(type(ana.get_dl().stats()) is ana.Stats)"
    )
    assert processes.run_program(program).split() == ["False", "True"]
    stats = ana.Stats(stored=3)
    assert pickle.loads(pickle.dumps(stats)) == stats


def test_what_is_not_public_is_no_attribute():
    """With Python's own words."""
    with pytest.raises(AttributeError, match="module 'ana' has no attribute 'Stat'"):
        ana.Stat


def test_the_typed_program_uses_each_public_name():
    """Nothing that ana exports is left unchecked."""
    program = (Path(__file__).parent / "typing" / "example.py").read_text(encoding="utf-8")
    assert {name for name in PUBLIC if not re.search(rf"\bana\.{name}\b", program)} == set()
