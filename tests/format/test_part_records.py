"""Records whose large segments are states of their own."""

import struct

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ana.errors import CorruptedStateError, UnsupportedFormatError
from ana.format import address, chunks, header, parts, record

pytestmark = pytest.mark.once

LEAST = record.LARGE_BYTES
HOLDER = "ana:Holder"
sizes = st.sampled_from((0, 1, 5000, LEAST - 1, LEAST, LEAST + 1, 4 << 20, (4 << 20) + 1))
lists = st.lists(sizes, min_size=1, max_size=4)


def _views(lengths):
    """Return a stream, and segments of these sizes, none like another."""
    return [memoryview(bytearray([number + 1]) * length) for number, length in enumerate([20, *lengths])]


def _content(lengths, bytes_segments=()):
    return record.content(HOLDER, _views(lengths), bytes_segments=bytes_segments)


def _holder(content, numbers, hints=()):
    """Return the key and the record of content with these parts, and the parts' contents by key."""
    made = [content.part(number) for number in numbers]
    keys = tuple(dict.fromkeys(part.key for part, _ in made))
    key = address.content_uuid(content.digest)
    said = record.Encoding(hints=hints)
    data = record.encode(key, content.with_parts(numbers), ("a child", *keys), said)
    return key, data, {part.key: (part, its) for part, its in made}


def _parsed(key, data):
    return record.parse_header(data, len(data), key, "here")


def _segments(head, data):
    found = record.decode(head, record.reader(data), "here")
    return [None if segment is parts.ABSENT else bytes(segment) for segment in found]


@pytest.mark.slow
@given(lists, st.data())
def test_a_holder_and_its_parts_have_all_of_the_content(lengths, data):
    """Whatever is a part: the content digest is the same, and the segments come back, some from the parts."""
    large = [number for number, size in enumerate(lengths, 1) if size >= LEAST]
    numbers = [number for number in large if data.draw(st.booleans())]
    bytes_segments = [number for number in range(1, len(lengths) + 1) if data.draw(st.booleans())]
    content = _content(lengths, bytes_segments)
    key, written, made = _holder(content, numbers)
    head = _parsed(key, written)
    assert head.content == content.digest
    assert head.segments == tuple(content.sizes)
    assert [(part.segment, part.key) for part in head.parts] == [(part.segment, part.key) for part, _ in made.values()]
    assert head.objects == ("a child",)
    assert head.children == ("a child", *made)
    assert head.own_bytes == sum(head.own_segments) == content.with_parts(numbers).own_bytes
    found = _segments(head, written)
    for part, its in made.values():
        record_of_part = record.encode(part.key, its)
        head_of_part = _parsed(part.key, record_of_part)
        assert (head_of_part.class_name, head_of_part.content) == (parts.CLASS_NAME, part.digest)
        assert head_of_part.segments == (part.size,)
        (found[part.segment],) = _segments(head_of_part, record_of_part)
    assert found == [bytes(view) for view in _views(lengths)]
    copied = bytearray(sum(head.own_segments))
    offsets = [sum(head.own_segments[:number]) for number in range(len(head.segments))]

    def put(offset, piece):
        copied[offset : offset + len(piece)] = piece

    record.copy(head, record.reader(written), "here", offsets, put)
    own = [view for number, view in enumerate(_views(lengths)) if number not in numbers]
    assert copied == b"".join(own)
    record.verify(head, record.reader(written), "here")


def test_a_part_is_its_bytes_and_its_address_that_of_them():
    """As if the bytes had been stored alone: whoever has them knows the key."""
    content = _content([LEAST, 9 << 20], [2])
    for number, marks in ((1, ()), (2, (0,))):
        part, its = content.part(number)
        alone = record.content(parts.CLASS_NAME, [content.views[number]], bytes_segments=marks)
        assert (part.digest, its) == (alone.digest, alone._replace(views=its.views))
        assert its.leaves == alone.leaves
    assert content.part(1)[0].key != content.part(2)[0].key


def test_arrays_of_parts_are_writable_and_aligned():
    """A part that is one compressed chunk comes in memory of its own, like any other buffer."""
    _, its = _content([LEAST]).part(1)
    data = record.encode(address.content_uuid(its.digest), its)
    head = _parsed(address.content_uuid(its.digest), data)
    (segment,) = record.decode(head, record.reader(data), "here")
    assert head.chunks[0].method == chunks.ZSTD
    assert not segment.readonly


@pytest.mark.parametrize("bytes_segments", [(), (1,)], ids=["array", "bytes"])
def test_who_forgets_a_part_gets_an_error(bytes_segments):
    """A holder's own segments alone are never taken for its content."""
    key, data, _ = _holder(_content([LEAST], bytes_segments), [1])
    absent = record.decode(_parsed(key, data), record.reader(data), "here")[1]
    for use in (bytes, len, memoryview):
        with pytest.raises(ValueError, match="released"):
            use(absent)


def test_equal_buffers_are_one_part():
    """The child is named once, and both segments are the part."""
    views = [memoryview(b"stream"), *[memoryview(bytearray(LEAST))] * 2]
    key, data, made = _holder(record.content(HOLDER, views), [1, 2])
    assert len(made) == 1
    assert [part.segment for part in _parsed(key, data).parts] == [1, 2]


def test_hints_of_a_holder_come_back():
    """They are for all children, the parts as well."""
    hints = ("host-1-ab:0:2000", "")
    key, data, _ = _holder(_content([LEAST]), [1], hints)
    assert _parsed(key, data).hints == hints


def _forged(data, change):
    """Return a record with a changed header and a right digest."""
    end = record.header_size(data, len(data), "", "")
    head = bytearray(data[: end - 32])
    change(head)
    return bytes(head) + blake3.blake3(head).digest() + data[end:]


def _table_at(data):
    end = record.header_size(data, len(data), "", "")
    return end - 32 - 2 * header.CHUNK.size


def test_a_reader_that_knows_no_parts_refuses_a_holder(monkeypatch):
    """The flag is unknown to it: an error that names the file, not other content."""
    key, data, _ = _holder(_content([LEAST]), [1])
    monkeypatch.setattr(header, "_KNOWN", header._KNOWN & ~header.PARTS)
    for read in (record.parse_header, record.brief_of):
        with pytest.raises(UnsupportedFormatError, match="flags 0x8"):
            read(data, len(data), key, "here")


def test_every_flipped_bit_of_a_holder_is_noticed():
    """Whether it is in the header, where the parts' digests are, or in what is left of the content."""
    key, data, _ = _holder(_content([LEAST, 50, LEAST + 1], [3]), [1, 3])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptedStateError, UnsupportedFormatError)):
            record.verify(_parsed(key, damaged), record.reader(damaged), "here")


def _stored(head, table):
    struct.pack_into("<I", head, table + header.CHUNK.size, 10)


def _raw(size):
    return lambda head, table: struct.pack_into("<I", head, table + header.CHUNK.size + 4, size)


def _flip(at):
    def change(head, _):
        head[at] ^= 1

    return change


def _no_flag(head, _):
    head[header.FLAGS_AT] &= ~header.PARTS


LIES = {
    "chunks of parts without the flag": _no_flag,
    "another leaf": _flip(-1),
    "another child": _flip(-2 * header.CHUNK.size - 2 * 8 - 1),
    "the stream as a part": lambda head, table: struct.pack_into("<IIB", head, table, 0, 20, chunks.PART),
    "a chunk that is stored, and in a part": _stored,
    "too small a chunk": _raw(LEAST - 1),
    "too large a chunk": _raw(LEAST + 1),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_parts_are_damage(lie):
    """A record with a right digest, and parts that do not add up, is refused before anything is read."""
    key, data, _ = _holder(_content([LEAST]), [1])
    assert _parsed(key, data).parts
    with pytest.raises(CorruptedStateError):
        _parsed(key, _forged(data, lambda head: LIES[lie](head, _table_at(data))))


def test_a_flag_without_parts_is_damage():
    """It says that some segments are parts, and none is."""
    content = _content([LEAST])
    key = address.content_uuid(content.digest)

    def with_flag(head):
        head[header.FLAGS_AT] |= header.PARTS

    with pytest.raises(CorruptedStateError, match="parts"):
        _parsed(key, _forged(record.encode(key, content, ("a child",)), with_flag))
