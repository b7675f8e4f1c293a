"""The pictures in the documents, which scripts beside them draw."""

import runpy
import xml.etree.ElementTree as ET

import pytest
from support import processes

PICTURES = processes.ROOT / "docs" / "pictures"


@pytest.mark.once
def test_travel_is_what_its_script_draws():
    """docs/pictures/travel.svg is the script's picture: whoever changes the script draws it anew."""
    drawn = runpy.run_path(str(PICTURES / "travel.py"))["draw"]()
    assert (PICTURES / "travel.svg").read_text(encoding="utf-8") == drawn, "run python docs/pictures/travel.py"


@pytest.mark.once
@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_needs_nothing_else(path):
    """A picture is well-formed, has a title, and needs neither scripts nor anything from elsewhere."""
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)  # noqa: S314 - our own file
    assert root.find("{*}title").text
    assert root.get("viewBox")
    assert not {"script", "image", "foreignObject", "a"} & {element.tag.partition("}")[2] for element in root.iter()}
    assert text.count("http") == text.count("http://www.w3.org/2000/svg")
    assert "@import" not in text
    assert "prefers-color-scheme" in text
