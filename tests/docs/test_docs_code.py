"""Each block of code in README.md and in docs/ is run, in order, as a reader would run it."""

import ast
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import code_blocks, processes
from support.engines import LAB, require

pytestmark = pytest.mark.once

ROOT = processes.ROOT
PAGES = {path.relative_to(ROOT).as_posix(): path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}


@dataclass
class Needs:
    """What a page needs to be followed."""

    packages: list[str] = field(default_factory=list)
    slurm: bool = False
    mpi: bool = False
    clone: bool = False
    cells: bool = False
    """Its Python blocks are the cells of a notebook: one process runs all of them."""
    slow: bool = True
    before: str = ""
    """A script of Python that makes what the page takes as given."""
    variables: dict[str, str] = field(default_factory=dict)


OLD_FOLDER = """
import os, pickle
os.mkdir("old")
with open("old/142be0d1-e3b4-4d7e-a2ce-9842285f3b18.p", "wb") as file:
    pickle.dump({"number": 1}, file, 2)
"""
"""A folder of the original ANA."""

STORES = """
import ana
for place in ("/shared/pickles", "/scratch/pickles"):
    layer = ana.set_dl(pickle_dir=place)
    refs = [ana.Ref(uuid) for uuid in ("5f3ac0e1-0000", "77b0c1d2-0000")]
    for ref in refs:
        ref.make_uuid(uuid=ref.value)
        ref.ana_store()
    layer.keep("experiment-7", *refs)
"""
"""Two stores with two states and a root each."""

NEEDS: dict[str, Needs] = {
    "README.md": Needs(["numpy", "pandas"], slurm=True),
    "docs/dask.md": Needs(["distributed", "pandas"]),
    "docs/executor.md": Needs(["joblib", "numpy"]),
    "docs/index.md": Needs(["numpy"]),
    "docs/installing.md": Needs(clone=True),
    "docs/migrating.md": Needs(["click", "distributed", "joblib", "numpy", "proxystore", "rich"], before=OLD_FOLDER),
    "docs/mpi.md": Needs(["mpi4py", "numpy"], mpi=True),
    "docs/notebooks.md": Needs(cells=True, slow=False),
    "docs/observing.md": Needs(["click", "rich"], slurm=True),
    "docs/operating.md": Needs(["click", "rich"], before=STORES, variables={"ANA_PICKLE_DIR": "/shared/pickles"}),
    "docs/processes.md": Needs(["joblib", "numpy"]),
    "docs/ray.md": Needs(["numpy", "ray"]),
    "docs/results.md": Needs(["click", "numpy", "rich"]),
    "docs/samplers.md": Needs(["dynesty", "emcee", "schwimmbad", "sklearn"]),
    "docs/slurm.md": Needs(["numpy", "submitit"], slurm=True),
    "docs/staging.md": Needs(["click", "rich"], slurm=True),
    "docs/start.md": Needs(["click", "numpy", "rich"], slurm=True),
    "docs/sweeps.md": Needs(["numpy"]),
    "docs/workflows.md": Needs(["executorlib", "numpy", "parsl"]),
}
"""Pages that need more than ANA itself."""

PLACES = {
    "/shared": "shared",
    "/local/scratch": "local",
    "/scratch": "scratch",
    "/project": "project",
    "/home/me/public": "home",
}
"""Folders that stand for those of a cluster."""

OTHERS = {
    "docs/cli.md": "tests/cli/test_care.py",  # made from the commands' help, whose examples that runs
    "docs/gallery.md": "tests/test_examples.py",
    "docs/format.md": "tests/format/test_format_document.py",
    "docs/writing-a-store.md": "tests/stores/test_writing_a_store.py",
}
"""Pages whose blocks have a test of their own."""

NOT_RUN: dict[tuple[str, str], str] = {
    ("README.md", ".venv/bin/ana demo"): ".ci/run runs it",
    ("README.md", ".venv/bin/python -m pytest"): ".ci/run runs it",
    ("docs/dask.md", "dask scheduler"): "servers that do not end: tests/engines/pools.py starts them so",
}
"""Blocks that are not run, by their page and some of their text, with the reason."""


DIRECTIVE = re.compile(r"\{[\w-]+\}")
"""What the site's build reads, such as {toctree}."""


def is_run(name, block):
    """Return whether a block is neither a drawing, nor left out, nor for a library that other tests want."""
    left_out = any(page == name and text in block.text for page, text in NOT_RUN)
    is_code = block.language not in code_blocks.UNCHECKED and not DIRECTIVE.fullmatch(block.language)
    return is_code and not left_out and "import torch" not in block.text


def pages():
    """Return a parameter for each page that has code."""
    for name, path in PAGES.items():
        if name in OTHERS or not any(is_run(name, block) for block in code_blocks.blocks(path)):
            continue
        marks = [pytest.mark.slow] if NEEDS.get(name, Needs(slow=False)).slow else []
        yield pytest.param(name, marks=marks, id=name)


@pytest.mark.parametrize("name", list(pages()))
def test_a_page_does_what_it_says(name, short_folder):
    """All blocks of the page run from top to bottom in one folder, and print what the page shows."""
    needs = NEEDS.get(name, Needs(slow=False))
    require(*needs.packages, slurm=needs.slurm, mpi=needs.mpi)
    folder = short_folder / "page"
    if needs.clone:
        left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "pickles")
        shutil.copytree(ROOT, folder, ignore=left_out)
        shutil.copy(ROOT / ".gitignore", folder)
        processes.run("git", "init", "-q", folder)
        processes.run("git", "-C", folder, "add", ".")
    folder.mkdir(exist_ok=True)
    reader = make_reader(folder, needs)
    reader.variables |= {name: reader.here(value) for name, value in needs.variables.items()}
    if needs.before:
        reader.python("before.py", reader.here(needs.before))
    page = [block for block in code_blocks.blocks(PAGES[name]) if is_run(name, block)]
    if needs.cells:
        page = [code_blocks.Block("python", "".join(block.text for block in page), page[0].line)]
    for number, block in enumerate(page):
        try:
            reader.follow(block, page[number + 1 :])
        except AssertionError as error:
            raise AssertionError(f"{name}:{block.line}: {error}") from error
    if needs.clone:
        assert strangers(folder) == []


def strangers(clone):
    """Return what is in a clone that Git neither knows nor ignores, but for the reader's own scripts."""
    said = processes.run("git", "-C", clone, "status", "--porcelain", "--untracked-files=normal").splitlines()
    return [line for line in said if line.startswith("??") and not re.fullmatch(r"\?\? line_\d+\.sh", line)]


def make_reader(folder, needs):
    """Return a reader in a folder, who has a cluster if the page needs one."""
    places = {place: str(folder / name) for place, name in PLACES.items()}
    for path in places.values():
        Path(path).mkdir()
    starter = [LAB] if needs.slurm else []
    return code_blocks.Reader(folder, places, starter, code_blocks.variables(needs.clone), timeout=600)


@pytest.mark.parametrize("name", list(PAGES))
def test_every_language_is_known(name):
    """No block is of a language that nothing here runs or checks: it would go untested."""
    known = {*code_blocks.FOLLOW, *code_blocks.UNCHECKED}
    if name in OTHERS:
        known |= {"hex", "holder", "pack"}
    found = {block.language for block in code_blocks.blocks(PAGES[name])}
    assert {language for language in found if not DIRECTIVE.fullmatch(language)} <= known


@pytest.mark.parametrize("name", list(PAGES))
def test_no_command_is_hidden_in_an_indented_block(name):
    """Code is in fences, where it is tested."""
    assert re.findall(r"\n\n {4}((?:ana|python|pip|export|import) .*)", PAGES[name].read_text("utf-8")) == []


def test_the_tables_are_true():
    """Each page and each block that a table here names is there, once."""
    assert {*NEEDS, *OTHERS} <= set(PAGES)
    for (page, text), reason in NOT_RUN.items():
        assert [text in block.text for block in code_blocks.blocks(PAGES[page])].count(True) == 1, (page, text, reason)
    assert all((ROOT / test).exists() for test in OTHERS.values())


FIGURE = re.compile(r"\b\d[\d,]*(?:\.\d+)?(?= tasks/s)|(?<=\| )\d[\d,.]+(?= \|)")


@pytest.mark.parametrize("name", ["README.md", "docs/compare.md"])
def test_figures_are_those_that_were_measured(name):
    """What a page quotes of tasks per second and of bytes is in docs/performance.md, which the benchmarks write."""
    measured = PAGES["docs/performance.md"].read_text("utf-8")
    figures = FIGURE.findall(PAGES[name].read_text("utf-8"))
    assert len(figures) >= 3
    assert [figure for figure in figures if figure not in measured] == []


def texts_of_the_source():
    """Return the string constants of the package, each as one text; what is filled in is a `…`."""
    found = []
    for path in (ROOT / "ana").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_messages_in_troubleshooting_are_those_of_the_code():
    """Each message in a heading of the page is in the source, but for what is filled in."""
    source = texts_of_the_source()
    headings = re.findall(r"^### (.*)$", PAGES["docs/troubleshooting.md"].read_text("utf-8"), re.MULTILINE)
    messages = [message for heading in headings for message in re.findall(r"`([^`]+)`", heading) if " " in message]
    pieces = [piece.strip(": ,;") for message in messages for piece in message.split("…")]
    theirs = {"Error", "object", "'Ref' object has no attribute", "ana gc", "assignment destination is read-only"}
    assert len(pieces) > 30
    assert [piece for piece in pieces if piece not in source and piece not in theirs] == []
