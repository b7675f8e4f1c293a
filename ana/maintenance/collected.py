"""What a collection may take, and what it did."""

from dataclasses import dataclass, field, replace

from ana.maintenance.common import Problem

__all__ = ["Collected", "Scope"]


@dataclass(frozen=True)
class Scope:
    """Which states may be collected, of those that no root keeps and that are older than the grace period.

    If several conditions are given, all must hold. If no age and no size is given, the store's own time to live
    (`init(ttl=)`) is the least age. What a remaining state refers to stays, too.
    """

    unreachable: bool = False
    """Any state that no root refers to."""
    older_than_seconds: float | None = None
    """States stored longer ago than this."""
    max_bytes: int | None = None
    """The oldest states, until the remaining files have at most this many bytes together."""
    max_files: int | None = None
    """The oldest states, until at most this many remain."""
    all_but: tuple[str, ...] = ()
    """Names of roots: all that these do not keep. All other roots are forgotten."""

    def within(self, ttl_seconds: float) -> "Scope":
        """Return the scope in a store whose states should stay so long, which counts if no age or size is given."""
        if not ttl_seconds or self.is_limited or self.all_but:
            return self
        return replace(self, older_than_seconds=ttl_seconds)

    @property
    def is_limited(self) -> bool:
        """Whether an age or a size is given."""
        return any(value is not None for value in (self.older_than_seconds, self.max_bytes, self.max_files))

    def check(self) -> None:
        """Raise ValueError if no condition is given, or a number is negative."""
        given = (self.older_than_seconds, self.max_bytes, self.max_files)
        if not (self.unreachable or self.is_limited or self.all_but):
            msg = "choose what may go: unreachable, older_than_seconds, max_bytes, max_files or all_but"
            raise ValueError(msg)
        if any(value is not None and value < 0 for value in given):
            msg = f"{self}: no value may be negative"
            raise ValueError(msg)


@dataclass
class Collected:
    """What a collection did or, in a dry run, would do. States are named by their files, relative to the store."""

    states: int = 0
    """States at the beginning, without the trash."""
    roots: int = 0
    """The number of roots that were followed."""
    kept: int = 0
    """States that stay: the sum of `kept_by_root`, `kept_young`, `kept_by_others` and `kept_within_limits`."""
    kept_bytes: int = 0
    """The size of these in files and packs."""
    kept_by_root: dict[str, int] = field(default_factory=dict)
    """How many states each root keeps, by its name. A state that several roots keep counts for the first of them."""
    kept_young: int = 0
    """How many stay only because they are younger than `young_seconds`."""
    young_seconds: float = 0.0
    """The grace, or the scope's age if that is longer."""
    kept_by_others: int = 0
    """How many stay only because a young state refers to them."""
    kept_within_limits: int = 0
    """How many stay because the scope's limits leave room for them."""
    young_until: float | None = None
    """When the oldest of `kept_young` will be old enough, in s since 1970 by the server's clock; None if none is."""
    free_from: float | None = None
    """When a run may delete what was moved to the trash, in s since 1970 by the server's clock; None if nothing was."""
    going: dict[str, int] = field(default_factory=dict)
    """In a dry run: the size in bytes of each file that would be moved to the trash or deleted."""
    forgotten: list[str] = field(default_factory=list)
    """The roots that were forgotten, by `all_but`."""
    trashed: list[str] = field(default_factory=list)
    """States that were moved to the trash."""
    trashed_bytes: int = 0
    """The size of these, and of the packs that were moved."""
    deleted: list[str] = field(default_factory=list)
    """States that had been in the trash for the grace period, and were deleted."""
    deleted_bytes: int = 0
    """The size of these, and of the packs that were deleted."""
    brought_back: list[str] = field(default_factory=list)
    """States that were in the trash although a state that stays refers to them."""
    waiting: int = 0
    """States and packs that stay in the trash: too young, or others may still refer to them."""
    folders: int = 0
    """Empty shard folders that were removed."""
    packs: int = 0
    """Packs at the beginning, without the trash."""
    packs_trashed: list[str] = field(default_factory=list)
    """Packs in which nothing was needed, and that were moved to the trash. Packs are named relative to the store."""
    packs_rewritten: list[str] = field(default_factory=list)
    """Packs of which less than half was needed. That part is in new packs now, and the old ones are in the trash."""
    packs_sealed: list[str] = field(default_factory=list)
    """Packs of killed writers that got their index."""
    packs_deleted: list[str] = field(default_factory=list)
    """Packs that had been in the trash for the grace period, and were deleted."""
    packs_brought_back: list[str] = field(default_factory=list)
    """Packs that were in the trash although a state that stays is in them."""
    dead_bytes: int = 0
    """The size of the states in old packs that stay, although nothing needs these states."""
    failed: dict[str, str] = field(default_factory=dict)
    """What could not be moved or deleted, with the reason."""
    problems: list[Problem] = field(default_factory=list)
    """Damaged states, and missing ones that others refer to."""
    ahead: list[str] = field(default_factory=list)
    """States that stay because they were modified ahead of the server's clock: one of the two was, or is, wrong."""
    refused: bool = False
    """Nothing was collected, because states that stay, or folders, could not be read: what they refer to is unknown."""
    dry_run: bool = False
    """Whether nothing was changed."""
