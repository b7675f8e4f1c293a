"""What a header says about the value, for people: a text that no digest of the content covers."""

import pytest
from support import raw_record

from ana.errors import CorruptedStateError, UnsupportedFormatError
from ana.format import header, record

pytestmark = pytest.mark.once

KEY = "5f3ac0e1-1234-4123-9123-123456789abc"
SHAPE = "ndarray (1000, 1000) float64"


def encoded(summary, children=("a child",), hints=()):
    """Return the record of a state that has this summary."""
    content = record.content("mesh:Mesh", [memoryview(b"state")]).described_by(lambda: summary)
    return record.encode(KEY, content, children, record.Encoding(hints=hints))


@pytest.mark.parametrize("hints", [(), ("host-1-0123456789abcdef:4096:300",)], ids=["no hints", "hints"])
@pytest.mark.parametrize("summary", ["", SHAPE, "Größe 3", "x" * 200])
def test_it_comes_back_with_all_else(summary, hints):
    """From the whole header, from the brief one, and by the document alone."""
    data = encoded(summary, hints=hints)
    found = header.parse_header(data, len(data), KEY, "here")
    assert (found.summary, found.class_name, found.children, found.hints) == (summary, "mesh:Mesh", ("a child",), hints)
    brief = header.brief_of(data, len(data), KEY, "here")
    assert (brief.summary, brief.class_name, brief.children) == (summary, "mesh:Mesh", ("a child",))
    written, segments = raw_record.read(data)
    assert (written.summary, segments) == (summary, [b"state"])


def test_content_and_address_do_not_depend_on_it():
    """Whoever stores the same content under another name for it stores the same state."""
    plain, told = (raw_record.read(encoded(summary))[0] for summary in ("", SHAPE))
    assert plain.content == told.content


def test_a_long_one_is_shortened_between_characters():
    """A header never holds more than 200 bytes of it, nor half of a character."""
    found = raw_record.read(encoded("ü" * 150 + "x"))[0]
    assert found.summary == "ü" * 100
    assert raw_record.read(encoded("x" + "ü" * 150))[0].summary == "x" + "ü" * 99


def test_wrong_sizes_are_refused():
    """A size that leads out of the header, or too far into it, is damage."""
    at = 96 + len(KEY) + len("mesh:Mesh")
    for size in (0, 5, 27, 29, 300, 0xFFFF):
        data = bytearray(encoded(SHAPE))
        data[at : at + 2] = size.to_bytes(2, "little")
        end = 8 + int.from_bytes(data[4:8], "little")
        data[end - 32 : end] = raw_record.digest(bytes(data[: end - 32]))
        with pytest.raises(CorruptedStateError):
            header.parse_header(bytes(data), len(data), KEY, "here")


def test_a_reader_that_does_not_know_it_says_so():
    """Flags that are unknown are refused by name, as version 1 refuses this one."""
    data = bytearray(encoded(SHAPE))
    data[18] |= 32
    with pytest.raises(UnsupportedFormatError, match="flags 0x30"):
        header.parse_header(bytes(data), len(data), KEY, "here")
