"""The pictures in the documents, which scripts beside them draw."""

import re
import runpy
import xml.etree.ElementTree as ET

import pytest
from support import extras, processes

PICTURES = processes.ROOT / "docs" / "pictures"


@pytest.mark.once
def test_travel_is_what_its_script_draws():
    """docs/pictures/travel.svg is the script's picture: whoever changes the script draws it anew."""
    drawn = runpy.run_path(str(PICTURES / "travel.py"))["draw"]()
    assert (PICTURES / "travel.svg").read_text(encoding="utf-8") == drawn, "run python docs/pictures/travel.py"


@pytest.mark.slow
@pytest.mark.once
def test_a_recording_plays_what_the_command_printed(tmp_path):
    """A recording has the typed command and its output, in colour; the last frame stays for the rest of the time."""
    extras.require("termtosvg")
    path = tmp_path / "short.svg"
    record = runpy.run_path(str(PICTURES / "recording.py"))["record"]
    record("printf '\\033[31mred\\033[0m <plain>'", rows=3, seconds=8, path=path)
    text = path.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    lines = [(element.get("class"), element.text) for element in ET.fromstring(text).findall(".//{*}text")]  # noqa: S314 - ours
    assert ("color1", "red") in lines
    assert ("foreground", " <plain>") in lines
    assert any(line.startswith("$ printf") for _, line in lines)
    (duration_ms,) = map(int, re.findall(r" animation-duration: (\d+)ms", text))
    assert 7500 < duration_ms < 20_000
    *_, last_begins, _end = (float(percent) for percent in re.findall(r"([\d.]+)%\{transform", text))
    assert (100 - last_begins) / 100 * duration_ms >= 4900


@pytest.mark.once
@pytest.mark.parametrize("path", sorted(PICTURES.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_needs_nothing_else(path):
    """A picture is well-formed, has a title, and needs neither scripts nor anything from elsewhere."""
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)  # noqa: S314 - our own file
    assert root.find("{*}title").text
    assert root.get("viewBox")
    assert not {"script", "image", "foreignObject", "a"} & {element.tag.partition("}")[2] for element in root.iter()}
    links = [link for element in root.iter() for name, link in element.attrib.items() if name.endswith("href")]
    assert all(link.startswith("#") for link in links)
    assert not re.search(r"@import|url\(", text)
