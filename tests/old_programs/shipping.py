#!/usr/bin/env python
"""Objects shipped to worker processes, which is what ANA was for; the workers set the layer as their parent did."""
import multiprocessing
import os
import pickle
import sys

import ana
import backends


class Model(ana.Storable):
    def __init__(self, name, weights):
        self.name = name
        self.weights = weights

    def _ana_getstate(self):
        return self.name, self.weights

    def _ana_setstate(self, s):
        self.name, self.weights = s


class Task(ana.Storable):
    """Never gets a UUID: pickles as usual, and its model as a reference."""

    def __init__(self, model, i):
        self.model = model
        self.i = i


_seen = []


def work(task):
    _seen.append(task.model)  # held, so that the identity in this worker can be told
    first = _seen[0]
    return task.i, task.model.weights[task.i], all(m is first for m in _seen), os.getpid()


def make(name):
    model = Model(name, list(range(1000)))
    model.make_uuid()
    return model


def echo(model):
    return model


def ship(context):
    model = make('shipped')
    assert len(pickle.dumps(model)) < 1000
    tasks = [Task(model, i) for i in range(50)]
    pool = context.Pool(2)
    try:
        results = pool.map(work, tasks, chunksize=1)
        # there and back: the very object
        back = pool.apply(echo, (model,))
        # made over there, used here
        there = pool.apply(make, ('made in a worker',))
    finally:
        pool.close()
        pool.join()
    assert [r[:3] for r in results] == [(i, i, True) for i in range(50)]
    assert os.getpid() not in [r[3] for r in results]
    assert back is model
    assert (there.name, len(there.weights)) == ('made in a worker', 1000)
    assert Model.ana_load(there.ana_uuid) is there


backends.choose(sys.argv)  # a spawned worker imports this file, and sets its layer here

if __name__ == '__main__':
    ship(multiprocessing.get_context(sys.argv[3]))
    print("all held")
