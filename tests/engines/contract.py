"""What ANA promises in every engine, tried in one of them.

`python contract.py ENGINE FOLDER` prints what happened, as JSON. The classes and the functions of the tasks are this
script's own, those of `__main__`, as in users' scripts.
"""

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

import ana

SIZE_BYTES = 2_000_000
TASKS = 8


class Part(ana.Storable):
    """Something that the large object refers to."""

    def __init__(self, name):
        self.name = name


class Model(ana.Storable):
    """A large object that notes in a file of its own each time that a process loads it."""

    def __init__(self, folder, name):
        self.log = str(Path(folder) / f"loads of {name}")
        self.name = name
        self.part = Part(f"part of {name}")
        self.weights = random.Random(name).randbytes(SIZE_BYTES)

    def _ana_setstate(self, s):
        super()._ana_setstate(s)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")

    def answer(self):
        """Say something that nobody could who has not the whole state."""
        return [self.name, len(self.weights), self.weights[-1], self.part.name]

    def times(self, number):
        """Be a task as a bound method."""
        return len(self.weights) * number


def use(model):
    """Be a task: use the object; say in which process."""
    return os.getpid(), model.answer()


def is_same(pair):
    """Be a task: say whether what the object refers to is the very object that came along with it."""
    model, part = pair
    return model.part is part and isinstance(part, Part)


def derive(model):
    """Be a task whose result is large: store it, and send it back by reference."""
    made = Model(os.path.dirname(model.log), f"made of {model.name}")
    return made.make_uuid(), os.getpid(), made, Part("equal").make_uuid()


def hello(number):
    """Be a task that needs nothing."""
    return number


def loads(model):
    """Return how often each process loaded an object."""
    path = Path(model.log)
    return dict(Counter(path.read_text(encoding="utf-8").split())) if path.exists() else {}


def stored(folder, name):
    """Make and store a model; its file with it."""
    model = Model(folder, name)
    model.part.make_uuid()
    uuid = model.make_uuid()
    (file,) = Path(folder).rglob(f"{uuid}.pkl.zst")
    return model, file


def outcome(pool, function, argument):
    """Try a task that cannot succeed; return what it raised, in words."""
    try:
        return ["no error", repr(pool.map(function, [argument]))]
    except Exception as error:
        return [" ".join(cls.__name__ for cls in type(error).__mro__), str(error)]


def spoil(file):
    """Flip a bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def try_all(pool, folder):
    """Do everything that is promised, once; return what happened."""
    # The workers are there before the objects: none is inherited.
    pool.map(hello, range(4))
    found = {}

    start = pool.sent()
    copied = Model(folder, "by value")
    _, found["copy"] = pool.map(use, [copied])[0]
    found["bytes by value"] = pool.sent() - start

    model, _ = stored(folder, "model")
    start = pool.sent()
    answers = pool.map(use, [model] * TASKS)
    found["bytes by reference"] = pool.sent() - start
    found["right"] = [answer == model.answer() for _, answer in answers]
    found["workers"] = sorted({str(pid) for pid, _ in answers} - {str(os.getpid())})
    found["loads"] = loads(model)
    found["as a method"] = pool.map(model.times, [3])
    found["same"] = pool.map(is_same, [(model, model.part)])

    missing, file = stored(folder, "missing")
    file.unlink()
    damaged, file = stored(folder, "damaged")
    spoil(file)
    found["missing"], found["damaged"] = outcome(pool, use, missing), outcome(pool, use, damaged)
    found["method"] = outcome(pool, missing.times, 2)
    found["uuids"] = {"missing": missing.uuid, "damaged": damaged.uuid, "method": missing.uuid}
    found["after"] = pool.map(use, [model])[0][1] == model.answer()

    start = pool.returned() if pool.returned else 0
    [(uuid, pid, made, equal)] = pool.map(derive, [model])
    found["result"] = {
        "by reference": made.uuid == uuid,
        "same address": Part("equal").make_uuid() == equal,
        "elsewhere": pid != os.getpid(),
        "right": made.answer() == Model(folder, "made of model").answer(),
        "class": type(made) is Model,
        "loads": loads(made).get(str(os.getpid()), 0),
        "bytes": pool.returned() - start if pool.returned else None,
    }
    return found


def main():
    """Try one engine."""
    import pools

    name, folder = sys.argv[1:]
    ana.set_dl(pickle_dir=Path(folder) / "store")
    with pools.ENGINES[name](Path(folder)) as pool:
        found = try_all(pool, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
