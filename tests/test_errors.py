"""Errors come home from workers with all they carry, and say what happened, to what, where, and what to do."""

import copy
import errno
import multiprocessing
import os
import pickle
import socket
from concurrent.futures import ProcessPoolExecutor

import pytest

import ana

UUID = "5f3ac0e1-0000-8000-8000-000000000001"
PATH = "/scratch/project/pickles/5f/3a/state.pkl.zst"

EXAMPLES = {
    "ANAError": (lambda: ana.ANAError("anything at all"), {}),
    "StateNotFoundError": (lambda: ana.StateNotFoundError(UUID, PATH, "look there"), {"uuid": UUID, "store": PATH}),
    "CorruptedStateError": (
        lambda: ana.CorruptedStateError(UUID, PATH, "chunk 3 is wrong"),
        {"uuid": UUID, "path": PATH, "reason": "chunk 3 is wrong"},
    ),
    "StateChangedError": (
        lambda: ana.StateChangedError(UUID, "mesh:Mesh", "it changed while it was stored"),
        {"uuid": UUID, "class_name": "mesh:Mesh", "what": "it changed while it was stored"},
    ),
    "UnsupportedFormatError": (
        lambda: ana.UnsupportedFormatError(PATH, 7, 1),
        {"path": PATH, "found": 7, "supported": 1},
    ),
    "UntrustedStoreError": (
        lambda: ana.UntrustedStoreError(PATH, "it is a symlink"),
        {"path": PATH, "reason": "it is a symlink"},
    ),
    "StoreError": (
        lambda: ana.StoreError(PATH, errno.ENOSPC, "free space there"),
        {"path": PATH, "errno": errno.ENOSPC, "hint": "free space there"},
    ),
    "LockTimeoutError": (lambda: ana.LockTimeoutError(PATH, 2.5, "node7"), {"path": PATH, "seconds": 2.5}),
    "UUIDConflictError": (lambda: ana.UUIDConflictError(UUID, PATH), {"uuid": UUID, "store": PATH}),
    "StateLoadError": (
        lambda: ana.StateLoadError(UUID, "mesh:Mesh", PATH, "AttributeError: no such class"),
        {"uuid": UUID, "class_name": "mesh:Mesh", "path": PATH, "reason": "AttributeError: no such class"},
    ),
}
"""Of each error one example, and the attributes that it promises."""

CO_BASES = {
    "StateNotFoundError": KeyError,
    "StoreError": OSError,
    "LockTimeoutError": TimeoutError,
    "StateLoadError": pickle.UnpicklingError,
}

every_error = pytest.mark.parametrize("name", EXAMPLES)


class _OutOfPatienceError(ana.ANAError):
    """An error of a user's own, whose class takes other arguments."""

    def __init__(self, seconds, *, who):
        super().__init__(f"{who} waited {seconds} s")
        self.seconds = seconds
        self.who = who


def _same(one, other):
    assert type(one) is type(other)
    assert str(one) == str(other)
    assert one.args == other.args
    assert vars(one) == vars(other)
    assert getattr(one, "errno", None) == getattr(other, "errno", None)


def _raise_example(name):
    error = EXAMPLES[name][0]()
    error.add_note("while the mesh was loaded")
    raise error


def test_every_error_of_the_tree_has_an_example_here():
    """No error of the package is left out of these tests."""
    errors = {name for name in ana.__all__ if isinstance(getattr(ana, name), type) and name.endswith("Error")}
    assert errors == set(EXAMPLES)


@every_error
def test_errors_carry_what_they_are_about(name):
    """The attributes of the documentation are there, and all errors are caught by ANAError."""
    make, attributes = EXAMPLES[name]
    error = make()
    assert isinstance(error, ana.ANAError)
    assert {key: getattr(error, key) for key in attributes} == attributes


@pytest.mark.parametrize(("name", "base"), CO_BASES.items())
def test_errors_are_also_what_python_calls_them(name, base):
    """Who knows nothing of ana catches them as KeyError, OSError, TimeoutError or UnpicklingError."""
    with pytest.raises(base):
        _raise_example(name)


@every_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_pickling(name, protocol):
    """Class, message, arguments, attributes and notes come back, with every protocol."""
    make, attributes = EXAMPLES[name]
    error = make()
    error.add_note("first")
    error.add_note("second")
    back = pickle.loads(pickle.dumps(error, protocol))
    _same(back, error)
    assert back.__notes__ == ["first", "second"]
    assert {key: getattr(back, key) for key in attributes} == attributes
    # And again: what came back is as good as the first.
    _same(pickle.loads(pickle.dumps(back, protocol)), error)


@every_error
def test_errors_can_be_copied(name):
    """Copies have all that the original has."""
    error = EXAMPLES[name][0]()
    _same(copy.copy(error), error)
    _same(copy.deepcopy(error), error)


def test_errors_of_users_survive_pickling():
    """A subclass whose constructor takes other arguments needs nothing of its own to be pickled."""
    back = pickle.loads(pickle.dumps(_OutOfPatienceError(3, who="node7")))
    assert (str(back), back.seconds, back.who) == ("node7 waited 3 s", 3, "node7")


def test_errors_come_back_from_workers():
    """A process pool hands every error to its caller whole, and goes on working."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for name, (make, attributes) in EXAMPLES.items():
            with pytest.raises(type(make())) as caught:
                pool.submit(_raise_example, name).result()
            assert {key: getattr(caught.value, key) for key in attributes} == attributes
            assert caught.value.__notes__[0] == "while the mesh was loaded"


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "ANAError"])
def test_messages_say_to_what_and_on_which_host(name):
    """UUID and path are in the message as they are, with the host and the process that saw it."""
    make, attributes = EXAMPLES[name]
    message = str(make())
    for attribute in ("uuid", "path", "store", "reason", "hint", "class_name"):
        assert str(attributes.get(attribute, "")) in message
    assert f"host {socket.gethostname()}, pid {os.getpid()}" in message


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("StateNotFoundError", "look there"),
        ("CorruptedStateError", "storing the same object again"),
        ("UnsupportedFormatError", "use a newer ana"),
        ("StoreError", "free space there"),
        ("UUIDConflictError", "choose another UUID"),
        ("LockTimeoutError", "held by node7"),
    ],
)
def test_messages_say_what_to_do(name, cure):
    """Where there is a cure, the message names it."""
    assert cure in str(EXAMPLES[name][0]())


def test_messages_name_versions_and_times():
    """The versions of a format, the seconds of a lock and the system's word for an error are spelled out."""
    assert "format 7" in str(ana.UnsupportedFormatError(PATH, 7, 1))
    assert "reads 1" in str(ana.UnsupportedFormatError(PATH, 7, 1))
    assert "2.5 s" in str(ana.LockTimeoutError(PATH, 2.5))
    assert os.strerror(errno.EDQUOT) in str(ana.StoreError(PATH, errno.EDQUOT))


@every_error
def test_messages_are_one_plain_line(name):
    """Neither KeyError's quotes nor OSError's numbers get into what is printed."""
    error = EXAMPLES[name][0]()
    assert str(error) == error.message
    assert "\n" not in str(error)
    assert not str(error).startswith(("'", '"', "("))
