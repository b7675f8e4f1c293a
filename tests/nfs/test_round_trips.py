"""What each operation of ana costs in calls to the server, against a budget (NFSv4.2, warm folder)."""

import itertools
import statistics

import pytest
import roundtrips
from conftest import counted_mount
from mountstats import filesystem

REPEAT = 5
STEPS = {step.name: step for step in roundtrips.ANA}

BUDGETS = {
    # name of the step: (NFSv4, NFSv3), which looks up what NFSv4 opens, and asks for access by itself
    # One of them asks whose the folder is, the first time that the process writes there.
    "make_uuid of a new small state": (7, 7),
    "make_uuid of a state that is there": (1, 1),
    "ana_load, cold": (4, 4),
    # One of them into the trash, where a collection may have put it.
    "ana_load, no such state": (3, 3),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_round_trips_are_within_budget(shared, name, monkeypatch):
    """A step costs no more calls to the server than its budget says, which is what it costs today."""
    mount = counted_mount(shared.near)
    # How long a miss waits for other hosts is not a matter of round trips.
    monkeypatch.setenv("ANA_WAIT", "0")
    place = roundtrips.Place(shared.near, shared.far, mount)
    runs = roundtrips.count(place, STEPS[name], itertools.count(1), REPEAT)
    budget = BUDGETS[name][filesystem(mount) == "nfs"]
    assert statistics.median(run.total for run in runs) <= budget, "; ".join(map(str, runs))
