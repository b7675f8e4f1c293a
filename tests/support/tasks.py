"""Tasks, and an executor that counts what is sent, for the tests of `ana.Executor`. They know nothing of ANA."""

import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ana.tasks import depot

__all__ = ["Model", "Recording", "double", "fail", "grow", "is_same", "kill", "make", "say", "total", "wait", "whoami"]

let_go = threading.Event()
"""What `wait` waits for, in threads."""


class Model:
    """An object with a large array."""

    pickled = 0

    def __init__(self, data):
        self.data = data

    def __getstate__(self):
        Model.pickled += 1
        return vars(self)

    def total(self):
        return total(self.data)

    def at(self, number):
        return float(self.data[number])


class Recording(ThreadPoolExecutor):
    """Runs tasks in threads, and counts the bytes that an engine would send and get back."""

    sent = 0
    returned = 0

    def submit(self, function, /, *arguments):
        data = pickle.dumps((function, arguments))
        self.sent += len(data)
        return super().submit(self._run, data)

    def _run(self, data):
        function, arguments = pickle.loads(data)
        data = pickle.dumps(function(*arguments))
        self.returned += len(data)
        return pickle.loads(data)

    def forget_loaded(self):
        """Do as a new process would."""
        depot._by_home.clear()


def total(*data, **more):
    """Add up all numbers that are anywhere in the arguments."""
    found = 0.0
    for one in (*data, *more.values()):
        if isinstance(one, list | tuple):
            found += total(*one)
        elif isinstance(one, dict):
            found += total(*one.values())
        else:
            found += float(np.sum(getattr(one, "data", one) if isinstance(one, Model) else one))
    return found


def say(value):
    """Return the argument."""
    return value


def is_same(one, other):
    """Return whether an argument is the first item of the other one."""
    return one is other[0]


def double(data):
    """Return a new array."""
    return data * 2


def grow(data):
    """Write to the argument."""
    data += 1
    return total(data)


def whoami(data):
    """Return where an array's memory is, whether it can be written to, and in which process."""
    return data.ctypes.data, data.flags.writeable, os.getpid()


def make(what):
    """Make a result: so many bytes, or something that does not pickle."""
    return threading.Lock() if what == "lock" else np.zeros(what, "u1")


def fail(_, error):
    """Raise an error."""
    raise error


def kill(_):
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait(_):
    """Wait until the test lets go."""
    let_go.wait()


def make_ref(value):
    """Store something oneself, as a task may."""
    import ana

    ref = ana.Ref(value)
    ref.make_uuid()
    return [ref]
