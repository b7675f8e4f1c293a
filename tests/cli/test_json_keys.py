"""What programs read: every key of every command's JSON is in its `--help`, and docs/json.md has exactly these keys."""

import json
import re

import pytest
from support import classes
from support.care import ran
from support.reference import generate

import ana

LINES = {"ls", "roots"}
"""Commands that print a line for each item."""
REFERS = {"stats": ["roots"]}
COMMANDS = [
    *(
        ("info",),
        ("stats",),
        ("stats", "--exact"),
        ("stats", "--all"),
        ("ls",),
        ("show", "UUID"),
        ("show", "UUID", "--tree"),
        ("verify",),
    ),
    *(("sweep",), ("roots",), ("why", "UUID"), ("gc", "--unreachable", "--dry-run"), ("gc", "--unreachable")),
    *(("expiring", "--purge", "mtime:30d"), ("keep", "more", "UUID"), ("extend", "root"), ("forget", "root")),
    *(("copy", "root", "--to", "OTHER"), ("diff", "OTHER"), ("export", "UUID", "-o", "FILE"), ("pack",), ("unpack",)),
    *(("stage", "UUID", "-o", "FILE"), ("rm", "LOOSE"), ("report", "-o", "FILE"), ("init", "-d", "FILE")),
]


def keys(document):
    """Yield all keys, of inner documents too, but not the names of roots and classes that are keys themselves."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key
            yield from keys(value)
    elif isinstance(document, list):
        for one in document:
            yield from keys(one)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_key_is_in_the_help(tmp_path, capfd, words):
    """Times are there as dates, too, which docs/operating.md says once for all."""
    store, other = tmp_path / "store", tmp_path / "other"
    for folder in (other, store):
        assert ran(capfd, "-d", folder, "init").code == 0
    ana.set_dl(pickle_dir=store)
    top = ana.Ref([classes.A(1), classes.A(2)])
    loose = classes.A("loose").make_uuid()
    named = {"UUID": top.make_uuid(), "LOOSE": loose, "OTHER": other, "FILE": tmp_path / "file"}
    ana.get_dl().keep("root", top, ttl="14d")
    done = ran(capfd, "-d", store, "--json", *(named.get(word, word) for word in words))
    assert done.out
    documents = [json.loads(line) for line in done.out.splitlines()] if words[0] in LINES else [json.loads(done.out)]
    # The help of stats refers to that of roots.
    said = "".join(ran(capfd, command, "--help").out for command in {words[0], *REFERS.get(words[0], ())})
    found = {key.removesuffix("_iso") for key in keys(documents)} - {"root", "more"}
    assert found
    assert {key for key in found if not re.search(rf"\b{re.escape(key)}\b", said)} == set()
    described = generate.documented_keys(name_of(words))
    assert all({key.removesuffix("_iso") for key in document} == described for document in documents)


def name_of(words):
    """Return the name that docs/json.md has for what a command prints."""
    return max((name for name in generate.DOCUMENTS if set(name.split()) <= set(words)), key=len)


def test_the_reference_has_the_keys_of_what_takes_more(tmp_path, capfd, monkeypatch):
    """A store with a key, an exported file, and the counts of jobs."""
    store, file, keys, counts = (tmp_path / name for name in ("store", "file", "keys", "counts"))
    counts.mkdir()
    monkeypatch.setenv("ANA_KEY_FILE", str(keys))
    for words in (
        ("key", "new", tmp_path / "other_keys"),
        ("init", "--keyed", "--key-file", keys),
        ("key", "rotate"),
        ("stats", "--jobs", counts),
    ):
        found = json.loads(ran(capfd, "-d", store, "--json", *words).out)
        assert {key.removesuffix("_iso") for key in found} == generate.documented_keys(name_of(words))
    ana.set_dl(pickle_dir=store)
    assert ran(capfd, "-d", store, "export", classes.A(1).make_uuid(), "-o", file).code == 0
    found = json.loads(ran(capfd, "-d", store, "--json", "import", file).out)
    assert found.keys() == generate.documented_keys("import")


def test_each_document_of_the_reference_is_made_here():
    """All but what takes five seconds, or a node's cache."""
    made = {name_of(words) for words in COMMANDS} | {"import", "key new", "key rotate", "stats --jobs"}
    assert set(generate.DOCUMENTS) - {"demo", "stage --node-cache"} == made
