"""The doctor: finds what makes a store slow or unsafe in its place, and names the cure."""

import errno
import os
from dataclasses import dataclass, field

from ana import settings
from ana.errors import StoreError
from ana.fs import files, mounts, paths, probes
from ana.layers import opening, staging
from ana.maintenance.common import StoreOrPath, absolute, open_store
from ana.maintenance.inodes import SMALL_BYTES, Inodes, estimate
from ana.stores import staged
from ana.stores.directory.store import DirectoryStore

__all__ = ["Finding", "Information", "info"]

SLOW_FSYNC_SECONDS = 0.02
MANY_STATES = 10_000
MANY_PACKS = 1000
"""From so many on, packing pays."""
SKEW_SECONDS = 2.0
LITTLE = 0.05
"""The doctor warns if a smaller share of bytes or inodes is free."""


@dataclass(frozen=True)
class Finding:
    """A finding of the doctor. `kind`: `unsafe`, `slow` or `note`."""

    kind: str
    """`unsafe`, `slow` or `note`."""
    what: str
    """What was found."""
    cure: str
    """What to do about it."""


@dataclass(frozen=True)
class Information:
    """A store as this host sees it. Sizes in bytes; None if a test was not possible."""

    path: str
    """The store's folder."""
    exists: bool
    """Whether there is a store. If not, the next five are empty, and the nearest folder was tested."""
    host: str
    """This host's name."""
    format: int
    """The version of the store's format."""
    levels: int
    """How many levels of shard folders it has."""
    store_id: str
    """The store's id."""
    mode: str
    """The mode of the store's folder, in octal: 0700, or 2770 for a group."""
    keyed: bool
    """Whether its states are signed."""
    filesystem: str
    """The filesystem's type, as in `nfs4`."""
    mount_point: str
    """Where it is mounted."""
    mount_source: str
    """What is mounted there."""
    mount_options: str
    """The options of the mount."""
    access_times: str
    """Which reads change a file's access time, by the mount's options. A purge by atime depends on that."""
    network: bool
    """Whether it is a network filesystem."""
    writable: bool
    """Whether this user may write there."""
    hard_links: bool | None
    """Whether hard links work."""
    fsync_seconds: float | None
    """How long an fsync of a small file takes."""
    lock: str | None
    """"" if a lock excludes another process on this host, else what is wrong."""
    other: str
    """The other mount's path, if one was given."""
    lock_other: str | None
    """The same for a lock held here and requested through the other mount."""
    clock_difference_seconds: float | None
    """The server's clock minus this host's."""
    total_bytes: int
    """The size of the filesystem."""
    free_bytes: int
    """What this user may still write, without regard to quotas."""
    total_inodes: int | None
    """The number of its inodes; None if it does not count them."""
    free_inodes: int | None
    """How many of them are free."""
    quota: str
    """The output of `quota` for this user and filesystem."""
    states: int
    """States with files of their own; this and the next three are estimated from a few folders."""
    small_states: int
    """Those of them that may go into packs."""
    folders: int
    """Shard folders."""
    packs: int
    """Packs."""
    findings: list[Finding] = field(default_factory=list)
    """What is unsafe or slow here, with the cures."""


def info(pickle_dir: StoreOrPath, *, other: StoreOrPath | None = None) -> Information:
    """Test the place of a store: hard links, fsync, locks, clock, space. Writes only temporary files.

    Args:
        pickle_dir: The store, or the place for one. If there is none, the nearest existing folder is tested.
        other: The same store through another mount, or as another host sees it, to test whether a lock held here
            excludes there.

    Raises:
        StoreError: The system refused, or `other` is no store.
        UntrustedStoreError: Others may have planted files in the store.
        UnsupportedFormatError: A newer version made the store.
    """
    store = _store_at(pickle_dir)
    second = None if other is None else open_store(other)
    elsewhere = "" if second is None else second.home
    path = pickle_dir.home if isinstance(pickle_dir, DirectoryStore) else absolute(pickle_dir)
    root = path if store is not None else paths.nearest_folder(path)
    mount = mounts.mount_of(root) or mounts.Mount("", "", "", "")
    space = probes.space(root)
    tried = _Tried(root, elsewhere)
    inodes = Inodes(0, 0, 0, 0) if store is None else estimate(store)
    found = Information(
        path=path,
        exists=store is not None,
        host=os.uname().nodename,
        format=0 if store is None else store.config.format,
        levels=0 if store is None else store.config.levels,
        store_id="" if store is None else store.config.id,
        mode="" if store is None else f"{store.tree.mode:04o}",
        keyed=store is not None and store.config.keyed,
        filesystem=mount.kind,
        mount_point=mount.point,
        mount_source=mount.source,
        mount_options=mount.options,
        access_times=_access_times(mount),
        network=mounts.is_network(root),
        writable=tried.writable,
        hard_links=tried.hard_links,
        fsync_seconds=tried.fsync_seconds,
        lock=tried.lock,
        other=elsewhere,
        lock_other=tried.lock_other,
        clock_difference_seconds=tried.clock_difference_seconds,
        total_bytes=space.total_bytes,
        free_bytes=space.free_bytes,
        total_inodes=space.total_inodes,
        free_inodes=space.free_inodes,
        quota=probes.quota(root),
        states=inodes.states,
        small_states=inodes.small,
        folders=inodes.folders,
        packs=inodes.packs,
    )
    found.findings.extend(_of_no_store(path, root) if store is None else [])
    found.findings.extend(_examine(found))
    found.findings.extend([] if store is None else _of_staged(store))
    if second is not None and found.store_id != second.config.id:
        text = f"{found.other} is another store: its locks say nothing about this one"
        found.findings.append(Finding("note", text, "pass the same store, through its other mount, to --other"))
    return found


def _store_at(pickle_dir: StoreOrPath) -> DirectoryStore | None:
    """Return the store at a place; None if there is none yet."""
    try:
        return open_store(pickle_dir)
    except StoreError as error:
        if error.errno != errno.ENOENT or isinstance(error.__cause__, OSError):
            raise
        return None


def _of_no_store(path: str, root: str) -> list[Finding]:
    if root == path and files.list_folder(path):
        text = "the folder has other files, so no store can be made in it"
        return [Finding("unsafe", text, "choose a new or empty folder")]
    what = "the empty folder" if root == path else root
    text = f"there is no store yet: {what} was tested"
    return [Finding("note", text, "ana init makes one, and so does the first program that stores something")]


def _access_times(mount: mounts.Mount) -> str:
    """Return what the mount's options mean for a purge by access time."""
    options = set(mount.options.split(","))
    if "noatime" in options or "ro" in options:
        said = "reads are not noted, so a purge by atime removes states that are in use"
    elif "relatime" in options:
        said = "a read is noted at most once a day"
    else:
        said = "each read is noted"
    if "lazytime" in options and "noatime" not in options:
        said += "; it reaches the disk up to a day later, so a crash may lose it"
    if not mounts.is_known_local(mount.kind):
        said += "; the server has its own rule: ask your site"
    return said


class _Tried:
    """The results of the tests. All are None if nothing can be written."""

    def __init__(self, root: str, other: str) -> None:
        self.hard_links: bool | None = None
        self.fsync_seconds: float | None = None
        self.lock: str | None = None
        self.lock_other: str | None = None
        self.clock_difference_seconds: float | None = None
        self.writable = False
        try:
            self.hard_links = probes.hard_links(root)
            self.fsync_seconds = probes.fsync_seconds(root)
            self.lock = probes.excludes(root, root)
            self.lock_other = probes.excludes(root, other) if other else None
            clock = probes.clock(root)
        except StoreError:
            return
        self.writable = True
        # A difference within the measurement error counts as none.
        off = abs(clock.difference_seconds) > clock.error_seconds
        self.clock_difference_seconds = clock.difference_seconds if off else 0.0


def _examine(found: Information) -> list[Finding]:
    """Return the findings."""
    return [*_of_mount(found), *_of_trials(found), *_of_space(found), *_of_packs(found)]


def _of_staged(store: DirectoryStore) -> list[Finding]:
    reason = staging.why_unused(store, opening.trust().check_file)
    what = f"{settings.STAGED.name} is not used: {reason}"
    return [Finding("slow", what, staged.CURE)] if reason else []


def _of_mount(found: Information) -> list[Finding]:
    options = set(found.mount_options.split(","))
    findings = []
    if not found.writable:
        findings.append(
            Finding("note", "nothing can be written here", "loading works; store from a host where it is writable")
        )
    if found.filesystem == "tmpfs":
        text = "it is in memory: lost at a reboot, and invisible to other hosts"
        findings.append(Finding("unsafe", text, "use a folder on a shared filesystem"))
    if found.filesystem.startswith("nfs") and options & {"nolock", "local_lock=all", "local_lock=flock"}:
        text = "locks work within this host only (nolock): work may be done twice, nothing is lost"
        findings.append(Finding("slow", text, "mount without nolock, or run maintenance on one host"))
    if found.filesystem.startswith("nfs") and "soft" in options:
        text = "mounted soft: a slow server causes I/O errors"
        findings.append(Finding("unsafe", text, "mount hard"))
    if found.filesystem == "lustre" and not options & {"flock", "localflock"}:
        findings.append(Finding("slow", "no locks: work may be done twice", "mount with -o flock"))
    if found.exists and found.levels != 2:  # noqa: PLR2004 - what new stores have
        text = f"{found.levels} folder levels instead of 2: many states in one folder are slow to look up"
        findings.append(Finding("note", text, "export the states, and import them into a new store"))
    return findings


def _of_trials(found: Information) -> list[Finding]:
    findings = []
    if found.hard_links is False:
        text = "no hard links: if two writers store the same explicit UUID at once, the last one may win"
        findings.append(Finding("unsafe", text, "avoid explicit UUIDs, or use another filesystem"))
    if found.fsync_seconds is not None and found.fsync_seconds > SLOW_FSYNC_SECONDS:
        text = f"a durable write takes {found.fsync_seconds * 1000:.0f} ms"
        findings.append(Finding("slow", text, "use store_many(), or durable=False if states can be computed again"))
    for where, said in (("this host", found.lock), (f"{found.other} and here", found.lock_other)):
        if said:
            text = f"locks between two processes ({where}): {said}; work may be done twice, nothing is lost"
            findings.append(Finding("slow", text, "run maintenance on one host only, from cron"))
    skew = found.clock_difference_seconds
    if skew is not None and abs(skew) > SKEW_SECONDS:
        text = f"the server's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this host's"
        findings.append(Finding("note", text, "ages are by the server's clock; run chrony or ntpd on both"))
    return findings


def _of_space(found: Information) -> list[Finding]:
    findings = []
    if found.free_bytes < LITTLE * found.total_bytes:
        text = f"{found.free_bytes / max(1, found.total_bytes):.0%} of the space is free"
        findings.append(Finding("unsafe", text, "run ana gc, or use a larger filesystem"))
    if found.total_inodes and found.free_inodes is not None and found.free_inodes < LITTLE * found.total_inodes:
        text = f"{found.free_inodes / found.total_inodes:.0%} of the inodes are free"
        findings.append(Finding("unsafe", text, "run ana gc, or use a larger filesystem"))
    return findings


def _of_packs(found: Information) -> list[Finding]:
    findings = []
    if found.small_states >= MANY_STATES:
        inodes = found.states + found.folders
        text = f"about {found.small_states:,} small states have files of their own: {inodes:,} files and folders in all"
        cure = f"ana pack puts states of up to {SMALL_BYTES // 1000} kB into few files; pack_bytes= does for new ones"
        findings.append(Finding("note", text, cure))
    if found.packs >= MANY_PACKS:
        text = f"{found.packs:,} packs: a process that looks for a state without a hint reads the index of each"
        findings.append(Finding("slow", text, "ana pack merges small packs"))
    return findings
