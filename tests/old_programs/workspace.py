#!/usr/bin/env python
"""A workspace saved and opened the way angr's GUI did it: the layer's dict goes into the file, and is put back from it."""
import os
import pickle
import subprocess
import sys

import ana
import backends


class Item(ana.Storable):
    def __init__(self, name, children=()):
        self.name = name
        self.children = list(children)
        self.make_uuid()


class Instance(object):
    def __init__(self, items):
        self.items = items

    def save(self, loc):
        with open(loc, 'wb') as f:
            pickled = pickle.dumps(self)
            store = ana.get_dl()._state_store
            pickle.dump({'store': store, 'pickled': pickled}, f)

    @staticmethod
    def from_file(loc):
        with open(loc, 'rb') as f:
            saved = pickle.load(f)
            ana.get_dl()._state_store = saved['store']
            return pickle.loads(saved['pickled'])


def main(argv):
    backends.choose(argv)
    where = argv[2]
    if argv[3:] == ['open']:
        instance = Instance.from_file(where)
        print([(i.name, [c.name for c in i.children]) for i in instance.items])
        assert instance.items[0].children[0] is instance.items[1].children[0]
    else:
        shared = Item('shared')
        Instance([Item('one', [shared]), Item('two', [shared])]).save(where)
        text = subprocess.check_output([sys.executable, __file__] + argv[1:3] + ['open'])
        assert text.decode().strip() == "[('one', ['shared']), ('two', ['shared'])]"
        os.remove(where)
        print("all held")


if __name__ == '__main__':
    import workspace  # its classes have to be where other processes can import them
    workspace.main(sys.argv)
