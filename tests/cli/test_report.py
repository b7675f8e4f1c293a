"""`ana report`: a page that needs nothing else, drawn by a real browser."""

import html.parser
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from support import care, extras, mounts, processes, raw_tree
from support.care import numbered, put, ran

from ana import maintenance
from ana.format import record
from ana.layers import statistics

INSTALL = "no chromium: apt-get install chromium"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def store(tmp_path):
    """A store with states of two classes and of all ages, some of which refer to others, and a history of a year."""
    tree = care.store(tmp_path / "store")
    for number, days in enumerate((0, 2, 10, 40, 100, 400)):
        put(tree, numbered(number), (numbered(0),) if number else (), size=1000 * 4**number, age_days=days)
    hostile = record.content("<script>alert(1)</script>:Class", [memoryview(b"\x80\x05N." + bytes(5000))])
    raw_tree.put(tree, numbered(9), record.encode(numbered(9), hostile))
    (tree / ".ana").mkdir(exist_ok=True)
    lines = [
        {"taken": time.time() - days * 86400, "states": 5, "inodes": 500 - days, "raw_bytes": 9, "stored_bytes": 9e5}
        for days in (360, 200, 100)
    ]
    (tree / ".ana" / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\ncut sho")
    return tree


class Page(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.words = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note a tag with its attributes."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        """Note a text."""
        self.words.append(data.strip())


def test_the_page_holds_the_figures_and_asks_nobody(store, tmp_path, capfd):
    """Figures are those of the store; no script, no link, no image; names of classes are text, whatever they are."""
    path = tmp_path / "report.html"
    done = ran(capfd, "-d", store, "--json", "report", "-o", path, "--purge-after", "90d")
    assert (done.code, done.document["size_bytes"]) == (0, path.stat().st_size)
    text = path.read_text()
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"} == set()
    assert not [value for _, attrs in page.tags for name, value in attrs.items() if name in {"src", "href", "onload"}]
    assert "://" not in text
    assert "url(" not in text
    assert "<script>alert(1)</script>:Class" in page.words
    assert "7" in page.words
    assert "states under 0 roots" in page.words
    assert sum(tag == "svg" for tag, _ in page.tags) == 5
    # Older than the limit: those of 100 and 400 days.
    assert text.count('class="bar hot"') == 2
    points = [attrs for tag, attrs in page.tags if tag == "circle"]
    assert len(points) == 2 * 4
    again = ran(capfd, "-d", store, "report", "-o", path)
    assert again.out == f"{path}\n"
    assert sum(tag == "circle" for tag, _ in Page(path.read_text()).tags) == 2 * 5


def test_what_is_shared_is_counted(store):
    """Five references to one state save four copies of it, raw."""
    summary = maintenance.stats(store, exact=True).summary
    assert summary.references == 5
    assert summary.shared_raw_bytes == 4 * (1000 + 8)


def test_pages_of_other_stores(tmp_path, store, capfd):
    """An empty store and a read-only one have a page, too; a damaged state is a red figure."""
    empty = care.store(tmp_path / "empty")
    assert "none" in Page(maintenance.report(empty)).words
    with mounts.read_only(store, tmp_path / "ro") as place:
        assert "7" in Page(maintenance.report(place)).words
    path = raw_tree.path_of(store, numbered(1))
    path.write_bytes(path.read_bytes()[:50])
    text = maintenance.report(store)
    assert "1 damaged" in Page(text).words
    assert 'class="tile hot"' in text
    assert ran(capfd, "-d", store, "report", "-o", tmp_path / "no" / "such" / "folder.html").code == 1


@pytest.mark.once
@pytest.mark.skipif(BROWSER is None, reason=INSTALL)
def test_a_browser_draws_it(store, tmp_path):
    """Chromium lays it out and draws it without an error, in light and dark, wide and narrow, without overflowing."""
    extras.require("matplotlib", extra="bench")
    from matplotlib import pyplot as plt

    page = tmp_path / "report.html"
    page.write_text(maintenance.report(store, purge_after_seconds=90 * 86400))
    for scheme, size in ((1, (1280, 1500)), (0, (420, 2900))):
        picture = tmp_path / f"{scheme}.png"
        words = [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={size[0]},{size[1]}",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={picture}",
            "--enable-logging=stderr",
            page.as_uri(),
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
        assert not re.findall(r"CONSOLE.*", done.stderr)
        pixels = plt.imread(picture)[:, :, :3]
        assert pixels.shape[:2] == size[::-1]
        ground = pixels[2, 2]
        assert (ground.mean() > 0.9) == (scheme == 1)
        # Bars are drawn in two colours, and nothing reaches into the right margin.
        assert _share(pixels, (0.85, 0.33, 0.17) if scheme else (0.94, 0.52, 0.37)) > 0.0005
        assert _share(pixels, (0.18, 0.44, 0.87) if scheme else (0.43, 0.61, 0.96)) > 0.003
        assert abs(pixels[:, -8:] - ground).max() < 0.02


def _share(pixels, colour):
    """Return which share of a picture has a colour."""
    return (abs(pixels - colour).max(axis=2) < 0.03).mean()


def test_jobs_show_where_states_came_from(tmp_path, capfd):
    """With --jobs the page says what real processes asked for, where it was, and what need not be moved."""
    program = (
        "import sys, pickle, ana; from support.classes import A\n"
        "layer = ana.set_dl(pickle_dir=sys.argv[1]); obj = A(bytes(3_000_000)); obj.make_uuid()\n"
        "data = [pickle.dumps(obj) for _ in range(5)]; uuid = obj.uuid\n"
        "for each in data: pickle.loads(each)\n"
        "with ana.using_dl(pickle_dir=sys.argv[1]): A.ana_load(uuid); A(bytes(3_000_000)).make_uuid()"
    )
    for _ in range(2):
        environment = processes.environment(ANA_STATS=str(tmp_path / "numbers"))
        processes.run(sys.executable, "-c", program, tmp_path / "store", env=environment)
    page = tmp_path / "report.html"
    assert ran(capfd, "-d", tmp_path / "store", "report", "-o", page, "--jobs", tmp_path / "numbers").code == 0
    words = Page(page.read_text()).words
    done = statistics.summarize(tmp_path / "numbers").stores[str(tmp_path / "store")]
    assert done.from_memory == 10
    assert "Where states came from" in words
    assert "30.0 MB, 10 times" in words
    assert "loads by 2 processes on 1 host" in words
    empty = care.store(tmp_path / "another")
    assert any(
        "no statistics of this store" in word
        for word in Page(maintenance.report(empty, jobs=tmp_path / "numbers")).words
    )
