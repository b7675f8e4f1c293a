"""The reference in docs/ says what the code says, and the links of all documents lead somewhere."""

import importlib
import re

import pytest
from support.processes import ROOT
from support.reference import generate

import ana
from ana import errors

pytestmark = pytest.mark.once

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
INTEGRATIONS = {path.stem for path in (ROOT / "ana" / "integrations").glob("*.py")} - {"__init__", "fork_server"}
API = {
    "api.md": ["ana"],
    "api-integrations.md": [f"ana.integrations.{name}" for name in sorted(INTEGRATIONS)],
    "api-stores.md": ["ana.stores", "ana.testing"],
}
"""Each page of the API, and the modules whose public names it documents."""


def read(path):
    """Return a document without its code blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path):
    """Return the anchors that forges and the site give to a document's headings."""
    titles = re.findall(r"^#+ (.+)$", read(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", generate.PAGES)
def test_pages_that_are_made_from_the_code_are_of_today(name):
    """Each page that docs/generate.py makes is what it would make now."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generate.PAGES[name](), "python docs/generate.py"


def test_each_key_of_the_json_has_a_meaning():
    """No row of docs/json.md is empty, whether of a command or of an inner document."""
    page = generate.json_page()
    assert len(re.findall(r"^\| `\w+` \| [^|]+ \| \S", page, re.MULTILINE)) > 200
    assert re.findall(r"^\| `(\w+)` \|[^|]*\|\s*\|$", page, re.MULTILINE) == []


@pytest.mark.parametrize(("page", "modules"), API.items())
def test_the_api_pages_name_all_public_names(page, modules):
    """A name in `__all__` is documented by its own directive or by the one for its module."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    whole = re.findall(r"automodule:: (\S+)\n   :members:", text)
    named = set(re.findall(r"auto(?!module)\w+:: (\S+)$", text, re.MULTILINE))
    for module in set(modules) - set(whole):
        assert {f"{module}.{name}" for name in importlib.import_module(module).__all__} - named == set()


def test_the_maintenance_page_documents_what_the_commands_return():
    """Each result of a command, and the function that returns it, is on the page."""
    text = (ROOT / "docs" / "api-maintenance.md").read_text(encoding="utf-8")
    results = {each.result for each in generate.DOCUMENTS.values() if each.result in vars(ana.maintenance).values()}
    assert len(results) > 20
    assert {each.__name__ for each in results if f"autoclass:: ana.maintenance.{each.__name__}\n" not in text} == set()


def test_each_error_has_its_section():
    """With when it is raised; all but the base class with a cure."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    for name in set(errors.__all__) - {"ANAError"}:
        section = text.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert "**Raised when**" in section
        assert re.search(r"\*\*(Cure:|Causes and cures)\*\*", section)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    """On a forge: each file is there, and each heading in it that a link names. The site's build checks the same."""
    dead = []
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", read(path)):
        there = (path.parent / target).resolve() if target else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(f"{target}#{anchor}")
    assert dead == []


def test_each_page_is_in_the_table_of_contents():
    """docs/index.md leads to all of them."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {name for tree in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for name in tree.split()}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - listed == {"index"}
