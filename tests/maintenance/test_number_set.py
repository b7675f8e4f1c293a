"""A set of numbers that takes little memory is a set."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ana.maintenance.number_set import NumberSet

# Few halves: many numbers share their first or last 64 bits, or are there twice.
HALVES = st.sampled_from([0, 1, 2, 1 << 54, (1 << 54) - 1, 1 << 63, (1 << 64) - 1])
NUMBERS = st.builds(lambda high, low: high << 64 | low, HALVES, HALVES)


@given(st.lists(NUMBERS), st.lists(NUMBERS))
def test_it_is_a_set(added, asked):
    """It says of each number whether it is new, has those that were added and no others, and counts them."""
    found, model = NumberSet(), set()
    for number in added:
        assert found.add(number) == (number not in model)
        model.add(number)
    assert {number for number in [*asked, *added] if number in found} == model.intersection([*asked, *added])
    assert sorted(found) == sorted(model)
    assert len(found) == len(model)


@pytest.mark.slow
@given(st.lists(NUMBERS), st.lists(NUMBERS))
def test_two_become_one(first, second):
    """`update` adds another's numbers."""
    found, other = NumberSet(), NumberSet()
    found.update(first)
    other.update(second)
    found.update(other)
    assert sorted(found) == sorted({*first, *second})


@pytest.mark.slow
def test_it_takes_a_fifth_of_the_memory_of_a_set():
    """50,000 numbers, spread as those of digests are."""
    numbers = [(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128) for number in range(50_000)]
    tracemalloc.start()
    found = NumberSet()
    found.update(numbers)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == len(numbers)
    assert taken < 30 * len(numbers)
