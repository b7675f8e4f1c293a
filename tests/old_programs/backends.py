"""The layers that programs of 2014 and 2019 chose, in the words in which they chose them."""
import ana


def choose(argv):
    """Set the layer named by the command line: `KIND [FOLDER]`; returns KIND."""
    kind, folder = argv[1], argv[2] if len(argv) > 2 else None
    if kind == 'none':
        pass
    elif kind == 'simple':
        ana.set_dl(ana.SimpleDataLayer())
    elif kind == 'dict':
        ana.set_dl(ana.DictDataLayer())
    elif kind == 'the_dict':
        ana.set_dl(ana.DictDataLayer(the_dict={}))
    elif kind == 'dir':
        ana.set_dl(ana.DirDataLayer(pickle_dir=folder))
    elif kind == 'dir_positional':
        ana.set_dl(ana.DirDataLayer(folder))
    elif kind == 'set_dl':
        ana.set_dl(pickle_dir=folder)
    elif kind == 'set_dl_positional':
        ana.set_dl(folder)
    elif kind == 'dl':
        ana.dl = ana.DataLayer(pickle_dir=folder)
    else:
        raise ValueError(kind)
    return kind
