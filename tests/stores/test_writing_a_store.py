"""docs/writing-a-store.md: its code is run as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-store.md"
BLOCK = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


@pytest.fixture
def folder(tmp_path):
    """A folder with all files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(folder, *arguments):
    """Run this interpreter in the folder, and return what it printed; a failure shows what it said."""
    command = [sys.executable, "-W", "error", *arguments]
    # Plugins that happen to be installed take seconds to import.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.once
def test_all_code_has_a_file():
    """Each Python block begins with the name of its file, so that it is run here."""
    assert PAGE.read_text(encoding="utf-8").count("```python") == len(FILES)
    assert set(FILES) == {
        *("shelf.py", "test_shelf.py", "use_shelf.py"),
        *("sqlite_store.py", "test_sqlite_store.py", "jobs.py"),
    }


@pytest.mark.once
@pytest.mark.parametrize("name", ["test_shelf.py", "test_sqlite_store.py"])
@pytest.mark.parametrize("chosen", ["not MiB", pytest.param("", marks=pytest.mark.slow)])
def test_the_stores_of_the_page_pass_the_contract(folder, name, chosen):
    """Both pass every test of `ana.testing` (every day, those with small contents); none is skipped."""
    said = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, name).splitlines()[-1]
    assert re.fullmatch(r"\d{2,} passed(, \d+ deselected)? in .*", said)


def test_a_layer_uses_a_store_of_the_page(folder):
    """`set_dl(store=...)` is all it takes."""
    assert run(folder, "use_shelf.py") == "[1, 2, 3]\n"


@pytest.mark.slow
def test_references_lead_workers_to_the_database(folder):
    """Spawned workers load by the home; so does who only imports the module; who does not is told the cure."""
    uuid, results = run(folder, "jobs.py").splitlines()
    assert results == "[6, 12]"
    home = f"sqlite:{folder}/states.db"
    read = f"import ana, jobs; print(ana.load({uuid!r}, jobs.Model).weights)"
    assert run(folder, "-c", f"{read.replace('; ', f'; ana.set_dl({home!r}); ', 1)}") == "[1, 2, 3]\n"
    sent = (
        "import pickle, sys, ana, jobs; ana.set_dl('other'); from ana import reference\n"
        f"found = reference.load(jobs.Model, {uuid!r}, {home!r}); print(found.weights)"
    )
    assert run(folder, "-c", sent) == "[1, 2, 3]\n"
    stranger = (
        "import ana; from ana import reference\n"
        f"found = reference.load(ana.Ref, {uuid!r}, {home!r})\n"
        "try: found.value\n"
        "except ana.ANAError as error: print(error)"
    )
    said = run(folder, "-c", stranger)
    assert "ana.stores.register('sqlite'" in said
