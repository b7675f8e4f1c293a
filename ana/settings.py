"""Each option of a layer and each environment variable: its type, unit, default and allowed values.

They are named and parsed only here. `docs/configuration.md` shows them as tables. A variable is read when it is needed,
never at import. An option overrides its variable.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar

from ana import arguments, units
from ana.errors import ANAError

__all__ = [
    "A_BOOL",
    "A_SIZE",
    "KEY_FILE",
    "NODE_CACHE",
    "NODE_CACHE_BYTES",
    "NODE_CACHE_VERIFY",
    "OPTIONS",
    "PACK_BYTES",
    "PART_BYTES",
    "PATH_MAP",
    "PICKLE_DIR",
    "SHARED",
    "STAGED",
    "STATS",
    "THREADS",
    "TRUSTED_UIDS",
    "UNMAPPED_WORD",
    "VARIABLES",
    "WAIT",
    "CurrentLayerOptions",
    "DataLayerOptions",
    "MemoryOptions",
    "Option",
    "Options",
    "Variable",
    "checked",
    "refuse_folder_options",
]

if TYPE_CHECKING:
    from ana.stores.base import Store

Value = TypeVar("Value")
Path = str | os.PathLike[str]

UNMAPPED_WORD = "unmapped"
_MAX_LEVEL = 22
_MAX_PACK_BYTES = 1 << 20
_LEAST_PART_BYTES = 256 << 10
_YES, _NO = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
A_SIZE = 'a number of bytes, or a size such as "20G" (10^9 each) or "20GiB" (2^30 each)'
_A_PART_SIZE = f"{A_SIZE}, at least 256KiB; 0 for no parts"
_A_DURATION = 'a number of seconds, or a duration such as "10s", "30m", "24h" or "14d"'
_A_FLAG = "1 or 0"
_A_FOLDER = "the path of a folder"
_A_FILE = "the path of a file"
A_BOOL = "True or False"


class MemoryOptions(TypedDict, total=False):
    """Options of every layer. See `set_dl`."""

    keep_bytes: int | str
    """How much loaded objects to keep alive for reuse, by the size of their raw states. In bytes, or as "2GiB".
    Default: 256 MiB."""
    errors: Literal["defer", "raise"]
    """What unpickling a reference does if its state is missing or damaged. "defer" makes an object that raises when it
    is used; "raise" raises at once. Default: "defer"."""
    strict: bool
    """Whether to raise UUIDConflictError if an explicit UUID already names other content. Default: False."""
    recheck_seconds: float | str
    """How long to assume that a stored object is still in the store before checking. In s, or as "10m". Default:
    300 s."""
    level: int
    """zstd's compression level, from -22 (fastest) to 22 (smallest). 0 does not compress. Default: 1."""
    allowed: Iterable[str] | None
    """Modules whose classes and functions a state may name when it is loaded. Default: any module."""
    max_state_bytes: int | str | None
    """Size of the largest raw state that is loaded. In bytes, or as "2GiB". Default: the memory of this machine or
    cgroup."""
    part_bytes: int | str | None
    """Buffers (arrays, `bytes`) of at least this size are stored once, as states of their own that many states can
    share; at least 256 KiB. In bytes, or as "1MiB". 0 stores them with each state. Default: `ANA_PART_BYTES`, else
    8 MiB."""
    share_parts: bool
    """Whether objects that hold the same part share its memory in this process. Their arrays are then read-only.
    Default: False."""


class DataLayerOptions(MemoryOptions, total=False):
    """Options of a layer over a folder. See `set_dl`."""

    store: "Store | None"
    """A store of any kind. Default: none."""
    durable: bool | None
    """Whether to wait for the disk before a state counts as stored. Default: True."""
    key: bytes | Path | None
    """32 bytes, or the path of a key file. Default: the store's own key file, else `ANA_KEY_FILE`."""
    shared: bool | None
    """Whether members of the store's group are trusted and may write to the store. Default: `ANA_SHARED`, else
    False."""
    trusted_uids: Iterable[int | str] | None
    """User ids whose files are trusted, besides this user's and root's. Or "unmapped". Default: `ANA_TRUSTED_UIDS`,
    else none."""
    node_cache: Path | None
    """A folder on this node's own disk that keeps large states for all processes of the node. "auto" finds one; "" is
    none. Default: `ANA_NODE_CACHE`, else none."""
    node_cache_bytes: int | str | None
    """Limit for everything that this user has in the node cache. In bytes, or as "20GiB". Default:
    `ANA_NODE_CACHE_BYTES`, else half of the free space there."""
    pack_bytes: int | str | None
    """States of at most this raw size share files, the packs; at most 1 MiB. In bytes, or as "64KiB". 0 gives each
    state a file of its own. Default: `ANA_PACK_BYTES`, else what `ana init --pack-bytes` said, else 0."""


class CurrentLayerOptions(DataLayerOptions, total=False):
    """Options of `set_dl` and `using_dl`."""

    pickle_dir: Path | None
    """The folder. Or the home of a store of a registered kind. Default: none, states are in memory."""


class Options:
    """The options of a layer: checked, and converted to seconds and bytes."""

    pickle_dir: str | None = None
    store: object = None
    keep_bytes: int = 256 << 20
    errors: str = "defer"
    strict: bool = False
    recheck_seconds: float = 300.0
    level: int = 1
    allowed: list[str] | None = None
    max_state_bytes: int | None = None
    part_bytes: int | None = None
    share_parts: bool = False
    durable: bool | None = None
    key: object = None
    shared: bool | None = None
    trusted_uids: list[int | str] | None = None
    node_cache: str | None = None
    node_cache_bytes: int | None = None
    pack_bytes: int | None = None

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)


# Environment variables


# Not NamedTuples, which take a millisecond to make when ana is imported.
class Variable(Generic[Value]):
    """An environment variable. Empty is the same as not set.

    Attributes:
        name: Its name.
        parse: Parses the text. Raises ValueError, with or without a reason.
        default: The value if it is not set.
        values: The allowed values, in words.
        shown: The default, in words.
        meaning: What it does, in words.
    """

    def __init__(
        self, name: str, parse: Callable[[str], Value], default: Value, values: str, shown: str, meaning: str
    ) -> None:
        self.name = name
        self.parse = parse
        self.default = default
        self.values = values
        self.shown = shown
        self.meaning = meaning

    def value(self) -> Value:
        """Return the current value, or the default. Raises ANAError if the variable cannot be parsed."""
        said = os.environ.get(self.name)
        if not said:
            return self.default
        try:
            return self.parse(said)
        except ValueError as error:
            msg = f"{self.name} must be {self.values}, not {said!r}{arguments.reason(error)}"
            raise ANAError(msg) from None


def _flag(said: str) -> bool:
    if said.lower() not in (*_YES, *_NO):
        raise ValueError
    return said.lower() in _YES


def _whole(said: str) -> int:
    if not (said.isascii() and said.isdigit() and int(said)):
        raise ValueError
    return int(said)


def _uids(said: str) -> list[int | str]:
    words = said.replace(",", " ").split()
    if not all((word.isascii() and word.isdigit()) or word == UNMAPPED_WORD for word in words):
        raise ValueError
    return [word if word == UNMAPPED_WORD else int(word) for word in words]


@lru_cache(maxsize=8)
def _pairs(said: str) -> list[tuple[str, str]]:
    """Return the pairs of paths, the longest FROM first."""
    pairs: dict[str, str] = {}
    for item in said.split(os.pathsep):
        # `$ANA_PATH_MAP:/a=/b` begins with an empty item if the variable was not set.
        if not item:
            continue
        start, target = _pair(item)
        if pairs.setdefault(start, target) != target:
            msg = f"{start} is mapped to {pairs[start]} and to {target}"
            raise ValueError(msg)
    return sorted(pairs.items(), key=lambda pair: -len(pair[0]))


def _pair(item: str) -> tuple[str, str]:
    paths = item.split("=")
    if len(paths) != 2 or not all(path.startswith("/") for path in paths):  # noqa: PLR2004 - a pair
        msg = f"{item!r} is not FROM=TO, two absolute paths without '=' and ':' in them"
        raise ValueError(msg)
    # POSIX allows two leading slashes a special meaning, so normpath keeps them.
    start, target = (os.path.normpath(f"/{path.lstrip('/')}") for path in paths)
    return start, target


def _positive_size(given: object) -> int:
    found = units.size_bytes(given)
    if found < 1:
        msg = "it must be at least 1"
        raise ValueError(msg)
    return found


def _pack_size(given: object) -> int:
    found = units.size_bytes(given)
    if found > _MAX_PACK_BYTES:
        msg = f"it must be at most {_MAX_PACK_BYTES}: larger states have files of their own"
        raise ValueError(msg)
    return found


def _part_size(given: object) -> int:
    found = units.size_bytes(given)
    if 0 < found < _LEAST_PART_BYTES:
        msg = f"it must be 0 or at least {_LEAST_PART_BYTES}: smaller buffers cost more as states of their own"
        raise ValueError(msg)
    return found


PICKLE_DIR = Variable(
    "ANA_PICKLE_DIR",
    str,
    "",
    _A_FOLDER,
    "the parent process's folder, else memory",
    "The store of the `ana` command, and of programs that do not call `set_dl`. References are looked up there, too.",
)
WAIT = Variable(
    "ANA_WAIT",
    units.seconds,
    2.0,
    _A_DURATION,
    "`2s`",
    "How long a read waits for a state that another host may have just written.",
)
SHARED = Variable("ANA_SHARED", _flag, False, _A_FLAG, "`0`", "`shared`, for layers without that option.")  # noqa: FBT003 - its default
TRUSTED_UIDS: Variable[list[int | str]] = Variable(
    "ANA_TRUSTED_UIDS",
    _uids,
    [],
    f"user ids, as in 1000,1001, or {UNMAPPED_WORD}",
    "none",
    "`trusted_uids`, for layers without that option.",
)
NODE_CACHE = Variable(
    "ANA_NODE_CACHE", str, "", f"{_A_FOLDER}, or auto", "none", "`node_cache`, for layers without that option."
)
NODE_CACHE_BYTES: Variable[int | None] = Variable(
    "ANA_NODE_CACHE_BYTES",
    _positive_size,
    None,
    A_SIZE,
    "half of the free space there",
    "`node_cache_bytes`, for layers without that option.",
)
NODE_CACHE_VERIFY = Variable(
    "ANA_NODE_CACHE_VERIFY",
    _flag,
    False,  # noqa: FBT003 - its default
    _A_FLAG,
    "`0`",
    "Whether a process hashes an entry of the node cache again each time it maps it.",
)
STAGED = Variable(
    "ANA_STAGED",
    str,
    "",
    _A_FILE,
    "none",
    "A file from `ana stage` on this node. States that are not in it are read from the store.",
)
PACK_BYTES: Variable[int | None] = Variable(
    "ANA_PACK_BYTES", _pack_size, None, A_SIZE, "the store's own", "`pack_bytes`, for layers without that option."
)
PART_BYTES = Variable(
    "ANA_PART_BYTES", _part_size, 8 << 20, _A_PART_SIZE, "`8MiB`", "`part_bytes`, for layers without that option."
)
KEY_FILE = Variable(
    "ANA_KEY_FILE", str, "", _A_FILE, "the key files in `~/.config/ana/keys`", "The key file of signed stores."
)
PATH_MAP: Variable[list[tuple[str, str]]] = Variable(
    "ANA_PATH_MAP",
    _pairs,
    [],
    f"FROM=TO{os.pathsep}FROM=TO..., for instance /lustre/x=/mnt/x",
    "none",
    "Translates the paths in references from another site to this host's.",
)
THREADS: Variable[int | None] = Variable(
    "ANA_THREADS",
    _whole,
    None,
    "a number of threads, at least 1",
    "this process's CPUs",
    "The most threads that hash, compress, write and read a large state.",
)
STATS = Variable(
    "ANA_STATS",
    str,
    "",
    _A_FOLDER,
    "none",
    "The folder for the statistics that each process writes, for `ana stats --jobs`.",
)

VARIABLES: tuple[Variable[Any], ...] = (
    PICKLE_DIR,
    PATH_MAP,
    SHARED,
    TRUSTED_UIDS,
    KEY_FILE,
    NODE_CACHE,
    NODE_CACHE_BYTES,
    NODE_CACHE_VERIFY,
    STAGED,
    PACK_BYTES,
    PART_BYTES,
    WAIT,
    THREADS,
    STATS,
)


# Options


class Option:
    """An option of a layer.

    Attributes:
        check: Converts the value to its unit. Raises TypeError or ValueError, with or without a reason.
        values: The allowed values, in words.
        shown: The default, in words.
        variable: The environment variable to use if the option is not given.
        folder_only: Whether it is for folders alone.
    """

    def __init__(
        self,
        check: Callable[[Any], object],
        values: str,
        shown: str,
        variable: Variable[Any] | None = None,
        *,
        folder_only: bool = False,
    ) -> None:
        self.check = check
        self.values = values
        self.shown = shown
        self.variable = variable
        self.folder_only = folder_only


def _place(given: Any) -> str:
    path = os.fsdecode(given)
    if not path:
        raise ValueError
    # A path object is always a folder, even if it looks like the home of another store ("sqlite:/...").
    return path if isinstance(given, str) or path.startswith(("/", "~")) else f"./{path}"


def _errors(given: object) -> object:
    if given not in ("defer", "raise"):
        raise ValueError
    return given


def _level(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError
    if not -_MAX_LEVEL <= given <= _MAX_LEVEL:
        raise ValueError
    return given


def _module_names(given: Iterable[object]) -> list[str]:
    if isinstance(given, str):
        raise TypeError
    names = []
    for name in given:
        if not isinstance(name, str):
            raise TypeError
        if not all(part.isidentifier() for part in name.split(".")):
            msg = f"{name!r} is not a module name"
            raise ValueError(msg)
        names.append(name)
    return names


def _trusted_uids(given: Iterable[object]) -> list[int | str]:
    if isinstance(given, str):
        raise TypeError
    uids: list[int | str] = []
    for uid in given:
        if uid != UNMAPPED_WORD and (isinstance(uid, bool) or not isinstance(uid, int)):
            raise TypeError
        if isinstance(uid, int) and uid < 0:
            msg = f"{uid} is negative"
            raise ValueError(msg)
        uids.append(UNMAPPED_WORD if isinstance(uid, str) else uid)
    return uids


def _as_given(given: object) -> object:
    """Return the value unchanged: the code that uses it checks it."""
    return given


OPTIONS = {
    "pickle_dir": Option(
        _place, f"{_A_FOLDER}, or the home of a store of a registered kind", "none (in memory)", PICKLE_DIR
    ),
    "store": Option(_as_given, "a store (docs/writing-a-store.md)", "none"),
    "keep_bytes": Option(units.size_bytes, A_SIZE, '`"256MiB"`'),
    "errors": Option(_errors, '"defer" or "raise"', '`"defer"`'),
    "strict": Option(arguments.true_or_false, A_BOOL, "`False`"),
    "recheck_seconds": Option(units.seconds, _A_DURATION, "`300`"),
    "level": Option(
        _level, f"a whole number from {-_MAX_LEVEL} (fastest) to {_MAX_LEVEL} (smallest), 0 for no compression", "`1`"
    ),
    "allowed": Option(_module_names, 'names of modules, as in ("mypackage", "numpy")', "any module"),
    "max_state_bytes": Option(_positive_size, A_SIZE, "the memory of this machine or cgroup"),
    "part_bytes": Option(_part_size, _A_PART_SIZE, '`"8MiB"`', PART_BYTES),
    "share_parts": Option(arguments.true_or_false, A_BOOL, "`False`"),
    "durable": Option(arguments.true_or_false, A_BOOL, "`True`", folder_only=True),
    "key": Option(_as_given, f"32 bytes, or {_A_FILE}", "the store's own, if it has one", KEY_FILE, folder_only=True),
    "shared": Option(arguments.true_or_false, A_BOOL, "`False`", SHARED, folder_only=True),
    "trusted_uids": Option(
        _trusted_uids,
        f'user ids, as in [1000, 1001], or "{UNMAPPED_WORD}"',
        "none",
        TRUSTED_UIDS,
        folder_only=True,
    ),
    "node_cache": Option(os.fsdecode, f'{_A_FOLDER}, "auto", or "" for none', "none", NODE_CACHE, folder_only=True),
    "node_cache_bytes": Option(
        _positive_size, A_SIZE, "half of the free space there", NODE_CACHE_BYTES, folder_only=True
    ),
    "pack_bytes": Option(_pack_size, A_SIZE, "the store's own, else `0`", PACK_BYTES, folder_only=True),
}


def checked(given: Mapping[str, object]) -> Options:
    """Return a layer's options, with the defaults of those that are not given.

    Raises TypeError for an option that does not exist, and TypeError or ValueError for an invalid value.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in OPTIONS:
            raise TypeError(_unknown(name))
        values[name] = _checked(name, value)
    return Options(**values)


def refuse_folder_options(options: Options) -> None:
    """Raise TypeError if an option that is only for folders is given for another store."""
    for name, option in OPTIONS.items():
        if option.folder_only and getattr(options, name) is not None:
            msg = f"{name}= is for a folder: give pickle_dir= too"
            raise TypeError(msg)


def _checked(name: str, value: object) -> object:
    option = OPTIONS[name]
    if value is None and getattr(Options, name) is None:
        return None
    return arguments.checked(name, option.check, option.values, value)


def _unknown(name: str) -> str:
    import difflib  # noqa: PLC0415 - needed after a mistake only

    near = difflib.get_close_matches(name, OPTIONS, 1)
    return f"there is no option {name}: " + (f"is it {near[0]}?" if near else f"the options are {', '.join(OPTIONS)}")
