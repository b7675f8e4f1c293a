"""Renders docstrings: Google style, with inline code and examples as in Markdown. Resolves the names in signatures."""

import importlib
import re
import sys
import textwrap
from dataclasses import is_dataclass
from functools import cache
from typing import Any, TypeVar

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring

FACES = ("ana", "ana.maintenance", "ana.stores", "ana.stores.base", "ana.testing")
"""Modules whose names the reference documents under the name there, wherever they are defined."""
SECTIONS = ("Which store", "Options of every layer", "Options of a layer over a folder")
_GOOGLE = Config(
    napoleon_custom_sections=[(name, "params_style") for name in SECTIONS],
    napoleon_use_ivar=True,
    napoleon_use_rtype=False,
)
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)\n *```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")


def _to_rest(_app: Sphinx, what: str, name: str, obj: object, _options: object, lines: list[str]) -> None:
    text = "\n".join(lines)
    if what == "module":
        text = _INDENTED.sub(lambda code: f"\n.. code-block:: text\n\n{code[0]}", text)
    fenced = _FENCE.sub(_directive, text).split("\n")
    # Of a property, a colon would end the name of its type.
    kind = "method" if what in {"attribute", "property"} else what
    lines[:] = GoogleDocstring(fenced, _GOOGLE, what=kind, name=name, obj=obj).lines()


def _no_fields(_app: Sphinx, what: str, _name: str, obj: object, *_: object) -> tuple[str, None] | None:
    """Leave a dataclass's long list of arguments out: its fields follow, with their meanings."""
    return ("", None) if what == "class" and is_dataclass(obj) else None


def _directive(fence: re.Match[str]) -> str:
    code = textwrap.indent(textwrap.dedent(fence[3]), f"{fence[1]}    ")
    return f"{fence[1]}.. code-block:: {fence[2] or 'text'}\n\n{code}\n"


@cache
def _public_names() -> dict[str, str]:
    """Return the public name of each name by which a signature calls it."""
    names = {}
    for face in FACES:
        for name in importlib.import_module(face).__all__:
            found = getattr(importlib.import_module(face), name)
            for known in (name, f"{getattr(found, '__module__', face)}.{name}"):
                names.setdefault(known, f"{face}.{name}")
    return names


def _resolve(app: Sphinx, env: BuildEnvironment, node: Any, shown: nodes.TextElement) -> nodes.Node | None:
    """Resolve a reference that Sphinx does not: link public names, and show those of other packages as they are."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if re.fullmatch(r"ana\.settings\.\w+Options", target):
        uri = app.builder.get_relative_uri(node["refdoc"], "configuration")
        return nodes.reference("", "", shown, refuri=f"{uri}#options")
    public = _public_names().get(target)
    if public in env.get_domain("py").objects:
        return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, shown)
    module, _, name = target.rpartition(".")
    if module and module.partition(".")[0] != "ana":
        return shown
    return shown if isinstance(getattr(sys.modules.get(module), name, None), TypeVar) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", _to_rest)
    app.connect("autodoc-process-signature", _no_fields)
    app.connect("missing-reference", _resolve)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    for name in ("cron", "hex", "holder", "pack"):
        # Code blocks that tests find by these names: those of docs/format.md, and lines of a crontab.
        app.add_lexer(name, TextLexer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
