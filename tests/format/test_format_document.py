"""docs/format.md, read as a stranger would: with struct, zstd and blake3, without ana."""

import ast
import json
import pickle
import re
import struct
from pathlib import Path

import blake3
import pytest
from support import raw_record

pytestmark = pytest.mark.once

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"


@pytest.fixture(scope="module")
def example():
    """The bytes of the document's worked example."""
    dump = re.search(r"```hex\n(.*?)```", DOCUMENT.read_text(), re.DOTALL).group(1)
    return bytes.fromhex("".join(line[4:] for line in dump.splitlines()))


def digest(data):
    """Return what the document calls a digest."""
    return blake3.blake3(data).digest()


def test_header_reads_as_the_tables_say(example):
    """Every field of the header stands where the offset table puts it, and says what the text says."""
    magic, size = struct.unpack_from("<II", example)
    end = 8 + size
    assert magic == 0x184D2A50
    assert example[8:16] == b"ANA\0PKL\n"
    assert struct.unpack_from("<HHIIIHHI", example, 16) == (1, 0, 1, 1, 1, 36, 9, 0)
    raw, stored, made = struct.unpack_from("<QQQ", example, 40)
    assert (raw, stored, made) == (39, 48, 1_764_000_000_000_000_000)
    assert len(example) == end + stored
    assert example[96:132] == b"f73a74bb-2940-8155-bb2f-95ce63bbd931"
    assert example[132:141] == b"example:A"
    assert example[141:143] == b"\x24\0"
    assert example[143:179] == b"5f3ac0e1-0000-4000-8000-000000000001"
    assert struct.unpack_from("<Q", example, 179) == (39,)
    assert struct.unpack_from("<IIB", example, 187) == (48, 39, 1)
    assert example[end - 32 : end] == digest(example[: end - 32])


def test_content_is_the_state_that_the_text_shows(example):
    """The chunk is a legal zstd frame, its digest covers its content, and the pickle is the shown dict."""
    content = raw_record.decompress(example)
    assert digest(content) == example[0xCB:0xEB]
    assert content == example[-39:]
    shown = re.search(r"The record of the state `(\{.*?\})`", DOCUMENT.read_text()).group(1)
    assert pickle.loads(content) == ast.literal_eval(shown)


def test_address_follows_from_the_content(example):
    """The content digest is what the text says, and its first bits are the key."""
    parts = (
        b"ana content address v1",
        b"example:A",
        struct.pack("<Q", 39),
        digest(example[-39:]),
    )
    found = digest(b"".join(struct.pack("<Q", len(part)) + part for part in parts))
    assert found == example[64:96]
    bits = int.from_bytes(found[:16]) & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62
    assert example[96:132].decode().replace("-", "") == f"{bits:032x}"


def test_every_row_of_the_walk_through_is_in_the_dump(example):
    """The bytes of each row of the example's table stand at the row's offset."""
    table = DOCUMENT.read_text().split("## Worked example")[1]
    rows = re.findall(r"^\| ([0-9a-f]{4}) \| `([0-9a-f ]+)", table, re.MULTILINE)
    assert len(rows) == 17
    for offset, shown in rows:
        expected = bytes.fromhex(shown)
        assert example[int(offset, 16) :].startswith(expected), offset


def test_tree_is_the_one_that_is_written(tmp_path):
    """The shown ana.json, folders and names are those of a store that is made now."""
    import ana

    layer = ana.set_dl(pickle_dir=tmp_path / "pickles", durable=False)
    config = json.loads((tmp_path / "pickles" / "ana.json").read_text())
    assert config["format"] == 1
    assert config["levels"] == 2
    layer.store_state("f73a74bb-2940-8155-bb2f-95ce63bbd931", 1)
    layer.store_state("my mesh", 2)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.zst")}
    tree = DOCUMENT.read_text().split("```")[1]
    assert found == {f"pickles/{line.split('  ')[1]}" for line in tree.splitlines() if re.match(r"  ../../[^.]", line)}


@pytest.fixture(scope="module")
def pack():
    """The bytes of the document's pack."""
    dump = re.search(r"```pack\n(.*?)```", DOCUMENT.read_text(), re.DOTALL).group(1)
    return bytes.fromhex("".join(line[4:] for line in dump.splitlines()))


def test_a_pack_is_a_zstd_file(pack):
    """The contents of its states, one after the other."""
    done = raw_record.decompress(pack)
    assert done == pickle.dumps({"x": 1}, 5) + pickle.dumps({"x": 2}, 5)


def test_the_index_reads_as_the_table_says(pack):
    """Found by the end of the file, it says where each record lies; keys are in order."""
    size, end = struct.unpack("<Q8s", pack[-16:])
    assert end == b"ANA\0END\n"
    index = pack[-size:]
    magic, rest, name, version, zero, count, begin = struct.unpack_from("<II8sHHIQ", index)
    assert (magic, rest, name, version, zero) == (0x184D2A51, size - 8, b"ANA\0PAK\n", 1, 0)
    assert begin == len(pack) - size
    assert f"begins at {begin:03x}." in DOCUMENT.read_text()
    assert index[-48:-16] == digest(index[:-48])
    columns = struct.unpack_from(f"<{count}Q{count}Q{count}I{count}I", index, 32)
    highs, lows, offsets, sizes = (columns[at * count : (at + 1) * count] for at in range(4))
    assert highs == tuple(sorted(highs))
    assert sum(sizes) == begin
    for high, low, offset, length in zip(highs, lows, offsets, sizes, strict=True):
        record = pack[offset : offset + length]
        assert record[96:132].decode().replace("-", "") == f"{high << 64 | low:032x}"
        header = 8 + struct.unpack_from("<I", record, 4)[0]
        assert record[header - 32 : header] == digest(record[: header - 32])
        assert header + struct.unpack_from("<Q", record, 48)[0] == length


def test_a_header_has_hints(pack):
    """The second state says where the first lies."""
    first = 8 + struct.unpack_from("<I", pack, 4)[0] + struct.unpack_from("<Q", pack, 48)[0]
    second = pack[first:]
    assert struct.unpack_from("<H", second, 18) == (4,)
    end = 8 + struct.unpack_from("<I", second, 4)[0] - 32
    hint = f"node17-4711-83b1d6f20a9c55e0:0:{first}".encode()
    assert second[end - len(hint) : end] == hint
    assert second[end - len(hint) - 2 : end - len(hint)] == struct.pack("<H", len(hint))


@pytest.fixture(scope="module")
def holder():
    """The bytes of the document's record of a state with a part."""
    dump = re.search(r"```holder\n(.*?)```", DOCUMENT.read_text(), re.DOTALL).group(1)
    return bytes.fromhex("".join(line[4:] for line in dump.splitlines()))


def test_a_holder_names_the_digests_of_its_part(holder):
    """Its file holds the stream alone; with the part's bytes, the pickle is the state that the text shows."""
    assert struct.unpack_from("<HHIII", holder, 16) == (1, 8 | 2, 1, 2, 2)
    assert digest(holder[: 8 + struct.unpack_from("<I", holder, 4)[0] - 32]) == holder[0x123:0x143]
    assert struct.unpack_from("<QQ", holder, 0xB3) == (32, 262144 | 1 << 63)
    assert struct.unpack_from("<IIB", holder, 0xC3) == (41, 32, 1)
    assert struct.unpack_from("<IIB", holder, 0xF3) == (0, 262144, 2)
    zeros = bytes(262144)
    assert holder[0x103:0x123] == digest(zeros)
    stream = raw_record.decompress(holder)
    shown = re.search(r"The state `(\{.*?\})` of the class `example:A`, with one part", DOCUMENT.read_text()).group(1)
    assert shown == '{"n": 10, "zeros": bytes(262144)}'
    assert pickle.loads(stream, buffers=[zeros]) == {"n": 10, "zeros": zeros}


def test_the_address_of_a_part_follows_from_its_holder(holder):
    """What the shell commands of the text hash gives the child's key."""
    leaves, size = holder[0x103:0x123], holder[0xBB:0xC3]
    texts = (b"ana content address v1", b"ana:part", size, leaves)
    found = digest(b"".join(struct.pack("<Q", len(text)) + text for text in texts)).hex()
    key = holder[0x8F:0xB3].decode()
    assert found.startswith("0fedfe20" + "46c8" + "776e")
    assert key.replace("-", "")[:12] == found[:12]
    script = re.search(r"```sh\n(\{.*?)```", DOCUMENT.read_text(), re.DOTALL).group(1)
    assert key in script
    said = b"".join(ast.literal_eval(f"b{text}") for text in re.findall(r"printf ('.*?')", script))
    assert said + leaves == b"".join(struct.pack("<Q", len(text)) + text for text in texts)


def test_the_content_digest_of_a_holder_covers_its_part(holder):
    """It is what the state would have without parts, and gives the state's key."""
    texts = (b"ana content address v1", b"example:A", holder[0xB3:0xC3], holder[0xD3:0xF3] + holder[0x103:0x123])
    found = digest(b"".join(struct.pack("<Q", len(text)) + text for text in texts))
    assert found == holder[64:96]
    assert holder[96:132].decode().startswith(found.hex()[:8])
