"""`ana report`: a page that needs nothing else, drawn by a real browser."""

import html
import html.parser
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time

import pytest
from support import care, extras, mounts, processes, raw_tree
from support.care import numbered, put, ran

from ana import maintenance, units
from ana.format import record
from ana.layers import statistics
from ana.maintenance import page as page_module

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
    # Older than the limit: those of 100 and 400 days.
    assert text.count('class="hot" style="width:') == 2
    assert sum("past the limit" in word for word in page.words) == 2
    assert dots(page) == [4, 4]
    assert page.words.count("All 4 counts") == 2
    again = ran(capfd, "-d", store, "report", "-o", path)
    assert again.out == f"{path}\n"
    assert dots(Page(path.read_text())) == [5, 5]


def dots(page):
    """Return how many points each line has."""
    return [attrs["d"].count("M") for tag, attrs in page.tags if attrs.get("class") == "dots"]


def test_every_chart_is_a_table(store):
    """What a picture shows, a screen reader reads: a table with named rows and columns, or a table below the line."""
    maintenance.keep(store, "paper", [numbered(4)])
    page = Page(maintenance.report(store))
    labels = {attrs["aria-label"] for tag, attrs in page.tags if tag == "table"}
    assert labels >= {"Bytes by class", "Bytes by user", "Bytes by age", "States by size", "The largest states"}
    assert labels >= {"Bytes on disk over time", "Inodes over time", "What gc would free", "Roots"}
    for tag, attrs in page.tags:
        if tag == "svg" or attrs.get("class") == "track":
            assert attrs["aria-hidden"] == "true"
        if tag == "th":
            assert attrs["scope"] in {"row", "col"}
    # The line itself says where it begins and ends.
    (said,) = [
        attrs["aria-label"] for _, attrs in page.tags if attrs.get("aria-label", "").startswith("Bytes on disk ov")
    ][:1]
    assert "900 kB on " in said


def test_what_an_owner_may_have_to_do(store, capfd):
    """The page and `stats --all` name roots with their ends, large states, owners, and what a collection would take."""
    maintenance.keep(store, "paper", [numbered(4)])
    maintenance.keep(store, "sweep-7", [numbered(2)], ttl="14d")
    maintenance.verify(store)
    text = maintenance.report(store)
    words = Page(text).words
    assert {"paper", "no end", "sweep-7", "Is it intact?", "No problems are known."} <= {*words}
    assert (
        sum(
            word.startswith("until ") and word.endswith(str(time.gmtime(time.time() + 14 * 86400).tm_year))
            for word in words
        )
        == 1
    )
    assert numbered(5) in words
    owner = pwd.getpwuid(os.geteuid()).pw_name
    assert owner in words
    # Old enough, and under no root: 1, 3, 5. The others are young, or kept with what they refer to.
    going = sum(raw_tree.path_of(store, numbered(number)).stat().st_size for number in (1, 3, 5))
    assert f"{units.size(going)}, 3 states" in words
    done = ran(capfd, "-d", store, "--json", "stats", "--all").document
    assert {root["name"]: root["states"] for root in done["roots"]} == {"paper": 2, "sweep-7": 2}
    found = done["collectable"]
    assert (found["states"], found["size_bytes"], found["unknown"]) == (3, going, "")
    assert [one["uuid"] for one in done["summary"]["largest"][:3]] == [numbered(5), numbered(4), numbered(3)]
    assert [(group["name"], group["states"]) for group in done["summary"]["by_user"]] == [(owner, 7)]
    assert done["verification"]["checked"] == 7
    printed = ran(capfd, "-d", store, "stats", "--all").out
    assert all(word in printed for word in ("paper", "sweep-7", numbered(5), owner, "3 states,", "no problems"))
    assert ran(capfd, "-d", store, "--json", "stats").document["roots"] is None


def test_a_collection_that_may_not_be_says_why(store):
    """Without a root, gc --unreachable refuses; then the page gives the reason, and no figure."""
    found = maintenance.overview(store).collectable
    assert "has no roots" in found.unknown
    assert any("has no roots" in word for word in Page(maintenance.report(store)).words)


def test_damage_is_named_with_the_time_of_the_check(store):
    """Damage that only reading every byte shows is on the page, once, and so is what is missing."""
    put(store, numbered(7), (numbered(99),))
    path = raw_tree.path_of(store, numbered(3))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    before = Page(maintenance.report(store)).words
    assert numbered(3) not in before[before.index("Is it intact?") : before.index("Classes")]
    assert any("never verified" in word for word in before)
    maintenance.verify(store)
    page = Page(maintenance.report(store))
    assert page.words.count("damaged") == page.words.count("missing") == 1
    part = page.words[page.words.index("Is it intact?") : page.words.index("Classes")]
    assert (part.count(numbered(3)), part.count(numbered(99))) == (1, 1)
    assert any(word.startswith("verified ") and "8 of 8 states" in word for word in part)


def test_a_short_history_has_times_of_day(store):
    """Counts within three days are told apart by hours and minutes."""
    now = time.time()
    lines = [
        {"taken": now - hours * 3600, "states": 5, "inodes": 9, "raw_bytes": 9, "stored_bytes": 9e5}
        for hours in (30, 20)
    ]
    (store / ".ana" / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = Page(maintenance.report(store)).words
    begin = time.strftime("%d %b, %H:%M", time.gmtime(now - 30 * 3600)).lstrip("0")
    assert words.count(begin) == 2 * 2
    (store / ".ana" / "history.jsonl").write_text(json.dumps({**lines[0], "taken": now - 10 * 86400}))
    begin = time.strftime("%d %b %Y", time.gmtime(now - 10 * 86400)).lstrip("0")
    assert Page(maintenance.report(store)).words.count(begin) == 2 * 2


def _luminance(colour):
    digits = colour.lstrip("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """Return the contrast of two colours as WCAG 2 defines it, from 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_known():
    """The formula itself: black on white is 21 to 1; a grey that is known to pass, and one that is known to fail."""
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#767676", "#fff") == pytest.approx(4.54, abs=0.01)
    assert contrast("#777777", "#fff") < 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_are_legible(theme):
    """All text has a contrast of 4.5 to 1, and bars and lines one of 3 to 1, on cards and on the ground: level AA."""
    light, dark = (dict(re.findall(r"--(\w+):(#\w+)", part)) for part in page_module.STYLE.split("@media", 2)[:2])
    colours = {"light": light, "dark": dark}[theme]
    assert colours.keys() == {"ground", "card", "ink", "soft", "rule", "main", "pale", "hot"}
    for behind in ("card", "ground"):
        for text in ("ink", "soft", "hot"):
            assert contrast(colours[text], colours[behind]) >= 4.5
        assert contrast(colours["main"], colours[behind]) >= 3


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
    assert any(word.startswith("damaged or missing; never verified") for word in Page(text).words)
    assert 'class="tile hot"' in text
    assert ran(capfd, "-d", store, "report", "-o", tmp_path / "no" / "such" / "folder.html").code == 1


def browse(tmp_path, width, scheme, *options):
    """Run chromium on the page in a frame of some width: its windows have a least width that no phone has."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<body style="margin:0"><iframe src="report.html" style="border:0;width:{width}px;height:6000px"></iframe>'
        "<script>onmessage = event => document.body.dataset.found = event.data</script>"
    )
    words = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},6000", "--enable-logging=stderr"),
        *(f"--blink-settings=preferredColorScheme={scheme}", *options, frame.as_uri()),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    assert not re.findall(r"CONSOLE.*", done.stderr)
    return done.stdout


SCHEMES = [(1200, 1), (1200, 0), (360, 1), (360, 0)]
"""The width of a desktop and of a phone, in light (1) and dark (0)."""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=INSTALL)
@pytest.mark.parametrize(("width", "scheme"), SCHEMES)
def test_a_browser_draws_it(store, tmp_path, width, scheme):
    """Chromium draws it without an error, in light and dark, wide and narrow: bars in both colours, an empty margin."""
    extras.require("matplotlib", extra="bench")
    from matplotlib import pyplot as plt

    (tmp_path / "report.html").write_text(maintenance.report(store, purge_after_seconds=90 * 86400))
    browse(tmp_path, width, scheme, f"--screenshot={tmp_path / 'page.png'}")
    pixels = plt.imread(tmp_path / "page.png")[:, :, :3]
    assert pixels.shape[:2] == (6000, width)
    ground = pixels[2, 2]
    assert (ground.mean() > 0.9) == (scheme == 1)
    assert _share(pixels, (0.76, 0.25, 0.05) if scheme else (0.94, 0.52, 0.37)) > 0.0001
    assert _share(pixels, (0.18, 0.44, 0.87) if scheme else (0.43, 0.61, 0.96)) > 0.001
    assert abs(pixels[:, -8:] - ground).max() < 0.02


LOOK = """<script>
const channel = part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4
const luminance = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(channel)
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0)
const behind = element => { for (; element; element = element.parentElement) {
  const colour = getComputedStyle(element).backgroundColor
  if (!colour.startsWith('rgba(0, 0, 0, 0')) return colour } }
onload = () => {
  document.querySelectorAll('details').forEach(each => each.open = true)
  const found = { width: innerWidth, wide: document.documentElement.scrollWidth, sizes: [], ratios: [], texts: 0 }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element)
    if (!walker.currentNode.data.trim() || element.closest('script')) continue
    const matrix = element.getScreenCTM ? element.getScreenCTM().a : 1
    const two = [luminance(style.color), luminance(behind(element))].sort((a, b) => a - b)
    const range = document.createRange(); range.selectNodeContents(walker.currentNode)
    found.wide = Math.max(found.wide, range.getBoundingClientRect().right)
    found.sizes.push(parseFloat(style.fontSize) * matrix)
    found.ratios.push((two[1] + 0.05) / (two[0] + 0.05)); found.texts++
  }
  found.sizes = Math.min(...found.sizes); found.ratios = Math.min(...found.ratios)
  parent.postMessage(JSON.stringify(found), '*')
}
</script>"""
"""Measures a page from inside: the smallest text, the lowest contrast of a text, how far to the right any reaches."""


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.skipif(BROWSER is None, reason=INSTALL)
@pytest.mark.parametrize(("width", "scheme"), SCHEMES)
def test_everything_can_be_read(store, tmp_path, width, scheme):
    """As it is laid out, no text is smaller than 12 px, paler than 4.5 to 1, or beyond the right edge."""
    maintenance.keep(store, "a-root-with-" + "a-long-name-" * 10, [numbered(4)], ttl="14d")
    put(store, numbered(7), (numbered(99),))
    maintenance.verify(store)
    text = maintenance.report(store, purge_after_seconds=90 * 86400)
    policy = re.search(r"<meta http-equiv=[^>]*>", text)[0]
    (tmp_path / "report.html").write_text(text.replace(policy, LOOK))
    shown = browse(tmp_path, width, scheme, "--virtual-time-budget=5000", "--dump-dom")
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', shown)[1]))
    assert found["width"] == width
    assert found["texts"] > 100
    assert found["sizes"] >= 12
    assert found["ratios"] >= 4.5
    assert found["wide"] <= width


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
