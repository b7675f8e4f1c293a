"""Makes the links of the pages work on the site as they do on a forge, and links names of the API to their reference.

On a forge, a page may link to any file of the project. The site has pages for some of these files; examples are in its
gallery; any other file is offered for download. A link to a file that does not exist is a warning.
"""

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

ROOT = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": "docs/changelog.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "README.md": "docs/index.md",
    "SECURITY.md": "docs/security.md",
    "examples": "docs/gallery.md",
}
"""Files outside of docs/, and the pages that show them."""
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_NAMED_LIKE_A_FILE = re.compile(r"\[[\w-]+\.md\]\((?![a-z]+:)([^)\s]+)\)")
_log = logging.getLogger(__name__)


def _show_file(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace a page that stands for a file with that file, and adapt a page's links."""
    shown = {Path(page).stem: path for path, page in PAGES.items() if path.endswith(".md")}.get(name)
    folder = "docs"
    if shown not in {None, "README.md"}:
        path = ROOT / shown
        app.env.note_dependency(path)
        source[0], folder = path.read_text(encoding="utf-8"), ""
    source[0] = _LINK.sub(lambda link: _adapted(link[1], link[2] or "", folder, name), source[0])
    # The site has no files: a link that says a file's name says the title there.
    source[0] = _NAMED_LIKE_A_FILE.sub(r"[](\1)", source[0])


def _adapted(target: str, anchor: str, folder: str, name: str) -> str:
    """Return the link from a page of the site that leads where a link leads from a file in `folder`."""
    path = os.path.normpath(os.path.join(folder, target))
    if not (ROOT / path).exists():
        _log.warning("%s does not exist", path, location=name, type="site")
    example = re.fullmatch(r"examples/(\w+)\.py", path)
    if example and (ROOT / "docs/gallery.md").exists():
        path, anchor = "docs/gallery.md", f"#{example[1]}py"
    return os.path.relpath(PAGES.get(path, path), "docs") + anchor


class _Finish(SphinxPostTransform):
    """Links inline code that names something of the API, and marks charts for the style sheet."""

    default_priority = 5

    def run(self, **_: Any) -> None:
        for image in self.document.findall(nodes.image):
            image["classes"].append(os.path.dirname(image["uri"]))
        for code in list(self.document.findall(nodes.literal)):
            target = self._target(code.astext())
            if target and not _within_link(code):
                code.replace_self(addnodes.pending_xref("", code.deepcopy(), refdoc=self.env.docname, **target))

    def _target(self, text: str) -> dict[str, Any] | None:
        """Return what inline code is about: a page, or something of the API."""
        page = re.fullmatch(r"docs/([\w-]+)\.md", text)
        if page and page[1] in self.env.found_docs:
            return {"refdomain": "std", "reftype": "doc", "reftarget": f"/{page[1]}", "refexplicit": True}
        name = re.sub(r"\(.*\)$", "", text)
        # `Ref` and `set_dl` can only mean ana's; `load` could be anything.
        name = f"ana.{name}" if re.fullmatch(r"[A-Z]\w*[a-z]\w*|\w+_\w+", name) else name
        if name.startswith("ana.") and name in self.env.get_domain("py").objects:
            return {"refdomain": "py", "reftype": "obj", "reftarget": name}
        return None


def _within_link(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.reference | addnodes.pending_xref | nodes.title):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", _show_file)
    app.add_post_transform(_Finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
