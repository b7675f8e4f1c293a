"""Writes the pages of the reference that follow from the code: `python docs/generate.py`.

docs/cli.md is made from the `ana` command, docs/json.md from the types of what its `--json` prints, the tree in
docs/errors.md from the classes, docs/gallery.md from examples/ and the outputs that tests/test_examples.py records. The
pages are part of the repository, so that they can be read on a forge, too; tests/test_reference.py compares.
"""

import ast
import inspect
import re
import types
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from ana import cli, demo, errors, maintenance
from ana.cli.common import TIMES, exit_code
from ana.layers.statistics import Stats, Summary

__all__ = ["DOCUMENTS", "PAGES", "documented_keys"]

DOCS = Path(__file__).parent


class Key(NamedTuple):
    """A key of a JSON document: its name, its type, and what it means."""

    name: str
    type: Any
    meaning: str


class Document(NamedTuple):
    """What a command prints with `--json`: a result's fields and further keys; a line for each item of a list."""

    result: type | None
    more: tuple[Key, ...] = ()
    per_line: bool = False


_KEY_FILE = Key("key_file", str, "The file with the new key.")
DOCUMENTS = {
    "copy": Document(maintenance.Copied),
    "demo": Document(
        demo.DemoResult,
        (
            Key("checks", dict[str, bool], "Whether each check passed, by its name."),
            Key("passed", bool, "Whether all checks passed."),
        ),
    ),
    "diff": Document(maintenance.Difference),
    "expiring": Document(maintenance.Expiring),
    "export": Document(maintenance.Exported),
    "extend": Document(maintenance.Extended),
    "forget": Document(
        None,
        (Key("name", str, "The root's name."), Key("entries", int, "How many files of the root were removed.")),
    ),
    "gc": Document(maintenance.Collected),
    "import": Document(maintenance.Imported),
    "info": Document(maintenance.Information, (Key("source", str, "The option or variable that named the store."),)),
    "init": Document(maintenance.Initialised),
    "keep": Document(maintenance.Kept),
    "key new": Document(None, (_KEY_FILE,)),
    "key rotate": Document(maintenance.Rotated),
    "ls": Document(maintenance.StateInfo, per_line=True),
    "pack": Document(maintenance.Packed),
    "report": Document(None, (Key("path", str, "The page's file."), Key("size_bytes", int, "The size of the page."))),
    "rm": Document(maintenance.Removed),
    "roots": Document(maintenance.RootInfo, per_line=True),
    "show": Document(maintenance.Shown),
    "show --tree": Document(maintenance.Child),
    "stage": Document(maintenance.Exported),
    "stage --node-cache": Document(maintenance.StagedHere),
    "stats": Document(
        maintenance.StoreStats,
        (
            Key("ratio", float, "How many times larger the states were before compression."),
            Key("growth", maintenance.Growth, "How fast the store grows, and when the disk will be full."),
            Key("verification", maintenance.Verification | None, "The last verification; null: none was saved."),
            Key("roots", list[maintenance.RootInfo] | None, "With `--all`: the roots."),
            Key("collectable", maintenance.Collectable | None, "With `--all`: what `ana gc` would free."),
            Key("jobs", Summary | None, "If `ANA_STATS` names a folder: the sums of its files."),
        ),
    ),
    "stats --jobs": Document(Summary, (Key("total", Stats, "The sum over all stores."),)),
    "sweep": Document(maintenance.Swept),
    "unpack": Document(maintenance.Unpacked),
    "verify": Document(maintenance.Verified),
    "why": Document(maintenance.Why),
}
"""What each command prints with `--json`. Commands that are not here print no JSON."""

_SUMS = (
    Key("moved_bytes", int, inspect.getdoc(Stats.moved_bytes) or ""),
    Key("spared_bytes", int, inspect.getdoc(Stats.spared_bytes) or ""),
)

_CODE = re.compile(
    rf"(`[^`]*`|\b\w+\([\w=., ]*=[\w=., ]*\)|\bana (?:{'|'.join(cli.COMMANDS)})\b(?: --?[\w-]+)*|[~.]/[\w./-]*\w"
    r"|(?<![\w-])--?[a-zA-Z0-9][\w-]*|\$?\b_?[A-Za-z]+_[\w.]*\w(?:=\w+)?)"
)
"""What is code in a help text: what is marked so, calls, commands, options, and names with an underscore."""

_NOTE = "<!-- Made by docs/generate.py. Do not edit. -->"

_CLI_HEAD = """# Command line

`ana` inspects and maintains a store. It needs click and rich: `pip install click rich`.
[Looking after a store](operating.md) says when to run what, and [JSON](json.md) what `--json` prints.
`ana COMMAND --help` and `ana help COMMAND` show the same text as this page, and `ana completion` makes a shell complete
commands, UUIDs and the names of roots.
"""

_JSON_HEAD = """# JSON output

What each command prints with `--json`, for programs: one document, or, where it says so, a line for each item. The keys
are the fields of the results that the functions of [`ana.maintenance`](api-maintenance.md) return. They are a stable
interface: keys are added, never renamed.

Sizes are in bytes, durations in seconds. A time is given twice: in seconds since 1970, as `created`, and as ISO 8601 in
UTC, as `created_iso`. A number that is infinite or unknown is `null`.
"""

_GALLERY_HEAD = """# Gallery

Each example is a short script in `examples/`. Start it in a clone of the repository, with the packages installed that
it imports. Its store is the folder `pickles`. The outputs are real: CI runs all examples, and compares what they print.
"""


def documented_keys(command: str) -> set[str]:
    """Return the keys of what a command prints, without the times as dates."""
    document = DOCUMENTS[command]
    return {key.name for key in (*_keys(document.result), *document.more)}


def _keys(result: type | None) -> list[Key]:
    """Return the fields of a result with the texts below them."""
    if result is None:
        return []
    hints = typing.get_type_hints(result)
    said = _texts(result)
    return [Key(field.name, hints[field.name], said.get(field.name, "")) for field in fields(result)] + [
        key for key in _SUMS if result is Stats
    ]


def _texts(result: type) -> dict[str, str]:
    (definition,) = ast.parse(inspect.getsource(result)).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(result)
    said = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                said[name] = " ".join(meaning.split())
    return said


# docs/json.md


def json_page() -> str:
    """Return the page on JSON output."""
    inner: list[type] = []
    parts = [_NOTE, _JSON_HEAD]
    for command, document in DOCUMENTS.items():
        keys = [*_keys(document.result), *document.more]
        parts += [f"## ana {command}\n", *(["A line for each item.\n"] if document.per_line else [])]
        parts += [_key_table(keys, inner)]
    parts.append("## Inner documents\n")
    for result in inner:
        # Grows meanwhile: what these hold.
        parts += [f"### {result.__name__}\n", f"{_summary(result)}\n", _key_table(_keys(result), inner)]
    return "\n".join(parts)


def _summary(result: type) -> str:
    return (inspect.getdoc(result) or "").split("\n\n")[0].replace("\n", " ")


def _key_table(keys: list[Key], inner: list[type]) -> str:
    rows = [(f"`{key.name}`", _type(key, inner), key.meaning.replace("None", "null")) for key in keys]
    return _table(("key", "type", "meaning"), rows)


def _type(key: Key, inner: list[type]) -> str:
    time = f", and `{key.name}_iso`" if key.name in TIMES else ""
    return f"{_type_name(key.type, inner)}{time}"


def _type_name(kind: Any, inner: list[type]) -> str:
    """Return a type in JSON's words, and note the results in it."""
    if is_dataclass(kind) and isinstance(kind, type):
        if kind not in inner:
            inner.append(kind)
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    names = {bool: "true or false", int: "integer", float: "number", type(None): "null", Any: "any", object: "any"}
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case types.UnionType | typing.Union:
            return " or ".join(_type_name(each, inner) for each in arguments)
        case None:
            return names.get(kind, "string")
        case origin if issubclass(origin, list | tuple):
            return f"list of {_type_name(arguments[0], inner)}"
    return f"object of {_type_name(arguments[1], inner)}"


# docs/cli.md


def cli_page() -> str:
    """Return the page on the command line."""
    context = click.Context(cli.ana, info_name="ana", **cli.ana.context_settings)
    shared = [parameter.name for parameter in cli.ana.get_params(context)]
    parts = [_NOTE, _CLI_HEAD, *_command(context, "## Options of all commands", [])]
    for name in cli.ana.list_commands(context):
        command = cli.ana.get_command(context, name)
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            for sub in command.list_commands(inner):
                deeper = click.Context(command.get_command(inner, sub), info_name=sub, parent=inner)
                parts += _command(deeper, f"## ana {name} {sub}", shared)
        else:
            parts += _command(inner, f"## ana {name}", shared)
    return "\n".join(parts)


def _command(context: click.Context, heading: str, shared: list[str | None]) -> list[str]:
    """Return a command's section; options that all commands share are left out."""
    command = context.command
    rows = [
        (f"`{record[0]}`".replace("|", "\\|"), _prose(" ".join(record[1].split())))
        for parameter in command.get_params(context)
        if parameter.name not in shared and (record := parameter.get_help_record(context)) and record[1]
    ]
    parts = [f"{heading}\n", f"```text\n{_usage(context)}\n```\n"]
    parts += [f"{_prose(' '.join(part.split()))}\n" for part in inspect.cleandoc(command.help or "").split("\n\n")]
    parts += [_table(("option", "meaning"), rows)] if rows else []
    return [*parts, *_epilog(command.epilog or "", context.command_path)]


def _usage(context: click.Context) -> str:
    return " ".join([context.command_path, *context.command.collect_usage_pieces(context)])


def _epilog(text: str, command: str) -> list[str]:
    """Return examples and exit codes. The keys of the JSON are on another page."""
    text = text.replace("\b\n", "")
    examples = re.search(r"Examples:\n((?:  .*\n)+)", text)
    codes = re.search(r"Exit codes:(.*)", text, re.DOTALL)
    parts = []
    if examples:
        parts.append(f"```sh\n{inspect.cleandoc(examples[1])}\n```\n")
    if codes and "\n  0 " in codes[0]:
        rows = re.findall(r"^  (\d+) +(.*)$", codes[1], re.MULTILINE)
        parts.append("Exit codes:\n\n" + _table(("code", "meaning"), [(code, _prose(said)) for code, said in rows]))
    elif codes:
        parts.append(f"Exit codes: {_prose(' '.join(codes[1].split()))}\n")
    if command.removeprefix("ana ") in DOCUMENTS:
        parts.append(f"JSON: [the keys](json.md#{command.replace(' ', '-')}).\n")
    return parts


def _prose(text: str) -> str:
    """Return a text of the help in Markdown: options and names as code, and what Markdown would take for markup."""
    parts = _CODE.split(text)
    return "".join(
        re.sub(r"([*_<>\[\]|])", r"\\\1", part) if number % 2 == 0 else part if part[0] == "`" else f"`{part}`"
        for number, part in enumerate(parts)
    )


# docs/errors.md


def errors_page() -> str:
    """Return the page on errors with its tree of today."""
    rows: list[tuple[str, ...]] = []
    _add_errors(errors.ANAError, rows, 0)
    tree = _table(("error", "also", "attributes", "exit code"), rows)
    begin, end = "<!-- docs/generate.py: tree -->\n", "<!-- end -->"
    before, _, rest = (DOCS / "errors.md").read_text(encoding="utf-8").partition(begin)
    return f"{before}{begin}{tree}{end}{rest.partition(end)[2]}"


def _add_errors(error: type[errors.ANAError], rows: list[tuple[str, ...]], depth: int) -> None:
    name, doc = error.__name__, inspect.getdoc(error) or ""
    also = [base.__name__ for base in error.__bases__ if not issubclass(base, errors.ANAError) and depth]
    attributes = re.findall(r"^    (\w+): ", doc.partition("Attributes:")[2], re.MULTILINE)
    code = exit_code(error.__new__(error))
    words = (", ".join(f"`{word}`" for word in group) for group in (also, attributes))
    rows.append((f"{'└&nbsp;' * depth}[{name}](#{name.lower()})", *words, str(code)))
    for name in errors.__all__:
        if error in (inner := getattr(errors, name)).__bases__:
            _add_errors(inner, rows, depth + 1)


# docs/gallery.md


def gallery_page() -> str:
    """Return the page with all examples and their outputs."""
    examples = sorted((DOCS.parent / "examples").glob("*.py"))
    rows = [(f"[{path.name}](#{path.name.replace('.', '')})", _said(path)[0]) for path in examples]
    parts = [_NOTE, _GALLERY_HEAD, _table(("example", "what it shows"), rows)]
    for path in examples:
        shows, command, *more = _said(path)
        source = path.read_text(encoding="utf-8").split('"""', 2)[2].strip("\n")
        output = (DOCS / "outputs" / f"{path.stem}.txt").read_text(encoding="utf-8")
        parts += [f"## {path.name}\n", f"{shows}\n", f"```sh\n{command}\n```\n", *(f"{text}\n" for text in more)]
        parts += [f"```python\n{source}\n```\n"]
        parts += [*_script(path), f"It prints:\n\n```text\n{output}```\n"]
    return "\n".join(parts)


def _said(path: Path) -> list[str]:
    """Return what an example shows, how to start it, and what else its docstring says."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    command = re.search(r"(?:mpiexec -n \d+ )?python (?:-m \S+ )?examples/\w+\.py", text)
    if command is None:
        msg = f"{path} does not say how to start it"
        raise ValueError(msg)
    shows, *more = text.split("\n\n")
    shows = shows.replace("\n", " ").partition(f": {command[0]}")[0].rstrip(".") + "."
    notes = (part for part in more if not part.strip().startswith(command[0]))
    return [shows, command[0], *(f"```sh\n{inspect.cleandoc(part)}\n```" if part[0] == " " else part for part in notes)]


def _script(path: Path) -> list[str]:
    """Return the shell script that goes with an example, if there is one."""
    script = path.with_suffix(".sh")
    text = script.read_text(encoding="utf-8") if script.exists() else ""
    return [f"`{script.name}`:\n\n```sh\n{text}```\n"] if text else []


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


PAGES = {"cli.md": cli_page, "errors.md": errors_page, "gallery.md": gallery_page, "json.md": json_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
