"""A table of many files' names: what is in it, in which order, and how little memory it takes."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ana.format import address
from ana.stores.directory.state_files import Marks, StateFiles

KEYS = st.one_of(st.uuids(version=4).map(str), st.text(min_size=1, max_size=8))


def names_of(keys, levels):
    """Return the names of the keys' files in a tree of that many levels."""
    return {"/".join(filter(None, address.place(key, levels))) for key in keys}


def table_of(names, levels):
    """Return a table of the names, added folder by folder as a listing does."""
    table = StateFiles(levels)
    folders = sorted({name.rpartition("/")[0] for name in names})
    for folder in folders:
        here = [name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == folder]
        table.add(f"{folder}/" if folder else "", here)
    return table


@given(st.sets(KEYS), st.sets(KEYS), st.integers(0, 3))
def test_a_table_holds_exactly_the_names_that_were_added(keys, others, levels):
    """Each name has a number, by which it is found again; no other name is in the table."""
    names = names_of(keys, levels)
    table = table_of(names, levels)
    assert sorted(table) == sorted(names)
    assert len(table) == len(names)
    assert {table[table.number(name)] for name in names} == names
    for name in names_of(others, levels) - names:
        assert name not in table


def test_a_file_in_a_wrong_folder_keeps_its_name():
    """It is in the table under the name that it has, and the right name is not."""
    key = "5f3ac0e1-0000-4000-8000-000000000001"
    table = table_of({f"00/11/{key}.pkl.zst"}, 2)
    assert list(table) == [f"00/11/{key}.pkl.zst"]
    assert f"5f/3a/{key}.pkl.zst" not in table


def test_files_are_sorted_by_age_once_they_are_noted():
    """Those of which nothing was noted are left out; sizes are kept."""
    names = sorted(names_of([f"{number:08x}-0000-4000-8000-000000000000" for number in range(4)] + ["a key"], 2))
    table = table_of(names, 2)
    assert list(table.youngest_first()) == list(table.since(0)) == []
    for number, name in enumerate(names[1:], 1):
        table.note(name, 10 * number, float(number))
    assert [name for _, name in table.youngest_first()] == names[:0:-1]
    assert sorted(table.since(3.0)) == names[3:]
    assert [table.size(name) for name in names] == [0, 10, 20, 30, 40]


@given(st.sets(KEYS), st.sets(KEYS))
def test_marks_are_a_set_of_names(keys, others):
    """Names of the table and others: what was added is in it, once, and the table's rest is what is absent."""
    listed, marked = names_of(keys, 2), names_of(others, 2)
    chosen = marked | set(sorted(listed)[::2])
    marks = Marks(table_of(listed, 2))
    marks.update([*chosen, *chosen])
    assert len(marks) == len(chosen)
    assert set(marks) == chosen
    assert set(marks.absent()) == listed - chosen
    assert all((name in marks) == (name in chosen) for name in listed | marked)


@pytest.mark.slow
def test_a_name_takes_little_memory():
    """A table of 50,000 files with sizes, times and marks takes at most 45 bytes for each."""
    count = 50_000
    tracemalloc.start()
    try:
        table = StateFiles(2)
        for folder in range(256):
            keys = [f"{folder:02x}00{number:04x}-0000-4000-8000-000000000000" for number in range(count // 256)]
            table.add(f"{folder:02x}/00/", [f"{key}.pkl.zst" for key in keys])
        marks = Marks(table)
        for name in table:
            table.note(name, 1, 2.0)
            marks.add(name)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(marks) == len(table)
    assert size < 45 * len(table)
