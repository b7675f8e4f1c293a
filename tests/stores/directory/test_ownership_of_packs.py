"""Whose packs are believed: owner and mode are checked on the pack that is open, and on the folder of the packs."""

import os
import pickle
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

# Another user may not be able to read what is imported late.
import filelock  # noqa: F401 - see above
import pytest
from support.users import Trap, user

import ana
from ana import maintenance

OWNER, ATTACKER, COLLEAGUE = 23_471, 23_472, 23_473
GROUP = 23_470

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users: sudo python -m pytest"),
    pytest.mark.once,
]


class A(ana.Storable):
    """Something to store."""

    def __init__(self, x):
        self.x = x


@pytest.fixture
def place():
    """A folder that all users can reach and write to, as /scratch is."""
    with tempfile.TemporaryDirectory(prefix="ana-ownership-") as found:
        Path(found).chmod(0o1777)
        yield Path(found)


@pytest.fixture
def reference(place):
    """A reference to what lies in a pack of a store of OWNER's that all may read."""
    with user(OWNER):
        (place / "store").mkdir(mode=0o755)
        return store(place / "store", "mine")


@pytest.fixture
def folder(place, reference):
    """That store, whose packs are sealed."""
    return place / "store"


def store(folder, x, **options):
    """Store an object of that state in a pack; return its reference."""
    with ana.using_dl(pickle_dir=folder, durable=False, pack_bytes="64k", **options) as layer:
        reference = pickle.dumps(A(x) if isinstance(x, A) else made(x))
        layer.store.packs.seal()
    return reference


def made(x):
    """Return an object with an address."""
    found = A(x)
    found.make_uuid()
    return found


def load(folder, reference, *, by_hint=True, **options):
    """Load it in a layer that has nothing in memory, by its hint or by its address alone."""
    with ana.using_dl(pickle_dir=folder, durable=False, **options):
        found = pickle.loads(reference)
        return found.x if by_hint else A.ana_load(str(found.uuid)).x


def packs_of(folder):
    """Return the paths of the packs."""
    return sorted((folder / "packs").glob("*.pack.zst"))


def test_packs_have_the_modes_of_the_store(place, reference, folder):
    """A colleague reads them, by the hint and without, and nobody else may write to them."""
    (pack,) = packs_of(folder)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder / "packs", pack)] == [0o755, 0o644]
    for by_hint in (True, False):
        with user(COLLEAGUE):
            assert load(folder, reference, by_hint=by_hint, trusted_uids=[OWNER]) == "mine"
            with pytest.raises(ana.UntrustedStoreError, match=f"owner {OWNER}"):
                load(folder, reference, by_hint=by_hint)


@pytest.mark.parametrize("by_hint", [True, False])
@pytest.mark.parametrize("where", ["pack", "packs"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_can_write_to_is_refused(folder, reference, where, mode, by_hint):
    """The error names the path, and the command that mends it, which does.

    A pack alone that is refused is no reason to refuse the store: what lies in no other is missing, and that says why.
    """
    target = packs_of(folder)[0] if where == "pack" else folder / "packs"
    target.chmod(target.stat().st_mode | mode)
    kind = ana.StateNotFoundError if where == "pack" else ana.UntrustedStoreError
    with user(OWNER):
        with pytest.raises(kind, match=rf"owner {OWNER}, group {OWNER}, mode ") as caught:
            load(folder, reference, by_hint=by_hint)
        assert str(target) in str(caught.value)
        command = re.search(f"chmod -R go-w {re.escape(str(folder))}", str(caught.value))[0]
        subprocess.run(shlex.split(command), check=True)
        assert load(folder, reference, by_hint=by_hint) == "mine"


@pytest.mark.parametrize("by_hint", [True, False])
@pytest.mark.parametrize("where", ["pack", "packs", "link"])
def test_a_planted_pack_is_refused(folder, place, where, by_hint):
    """Though all its records are what their addresses say; the trap in it is not sprung."""
    sentinel = place / "sentinel"
    with user(ATTACKER):
        (place / "theirs").mkdir(mode=0o755)
        trap = store(place / "theirs", Trap(sentinel))
        source = packs_of(place / "theirs")[0]
    for path in (folder, folder / "packs"):
        path.chmod(0o777)
    with user(ATTACKER):
        if where == "pack":
            shutil.copy(source, folder / "packs")
        else:
            (folder / "packs").rename(folder / "before")
            if where == "packs":
                shutil.copytree(source.parent, folder / "packs")
            else:
                (folder / "packs").symlink_to(source.parent)
    for path in (folder, folder / ("packs" if where == "pack" else "before")):
        path.chmod(0o755)
    refused = ana.StateNotFoundError if where == "pack" else ana.UntrustedStoreError
    with user(OWNER), pytest.raises(refused):
        load(folder, trap, by_hint=by_hint)
    assert not sentinel.exists()


def test_a_group_works_on_each_others_packs(place, monkeypatch):
    """Each member has packs of their own; all read, pack, verify and collect all of them."""
    monkeypatch.setenv("ANA_SHARED", "1")
    monkeypatch.setenv("ANA_TRUSTED_UIDS", f"{OWNER},{COLLEAGUE}")
    folder = place / "store"
    folder.mkdir()
    os.chown(folder, OWNER, GROUP)
    folder.chmod(0o2770)
    with user(OWNER, GROUP):
        first = store(folder, "the owner's")
    with user(COLLEAGUE, GROUP):
        second = store(folder, "the colleague's")
        assert [load(folder, found) for found in (first, second)] == ["the owner's", "the colleague's"]
    assert sorted(pack.stat().st_uid for pack in packs_of(folder)) == [OWNER, COLLEAGUE]
    assert {(stat.S_IMODE(pack.stat().st_mode), pack.stat().st_gid) for pack in packs_of(folder)} == {(0o660, GROUP)}
    with user(COLLEAGUE, GROUP):
        # The two packs are merged into one, which is the colleague's.
        assert maintenance.pack_states(folder, older_than_seconds=0).merged == 2
        maintenance.gc(folder, maintenance.Scope(older_than_seconds=1e6), grace_seconds=0)
        assert maintenance.verify(folder).problems == []
    for one, groups in ((OWNER, [GROUP]), (COLLEAGUE, [GROUP])):
        with user(one, *groups):
            assert [load(folder, found) for found in (first, second)] == ["the owner's", "the colleague's"]
    with user(ATTACKER), pytest.raises(ana.StoreError):
        load(folder, first)
