"""Fuzzes the way from a file's bytes to a state's segments, with libFuzzer through atheris.

    python tests/fuzz/records.py -max_total_time=60 [CORPUS ...]

Nothing but ANA's own errors may come out, and no more memory may be taken than a state's bound allows. What makes
it fail is written to `crash-...`, and can be given as an argument to run it again. Nothing is unpickled.
"""

import os
import resource
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ana"]):
    import ana
    from ana.format import header, record, signature
    from ana.stores import parts
    from ana.stores.directory.store import DirectoryStore
    from ana.stores.memory import MemoryStore

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import raw_record

KEY = "fuzz"
MAX_STATE_BYTES = 32 << 20
"""What a layer would be given as `max_state_bytes`: larger states are not read."""
SPARE_BYTES = 320 << 20
"""What one input may make the process allocate, beyond what it has: a state in two forms, and the fuzzer's own."""
SIGNED = 1
"""The flag of a signed header."""
PART = 1
"""Which segment of the holder is a part."""


def main() -> None:
    """Fuzz until libFuzzer has had enough."""
    folder = tempfile.TemporaryDirectory(prefix="ana-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    corpus = Path(folder.name) / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(_seeds()):
        for mode in range(4):
            (corpus / f"{number}-{mode}").write_bytes(bytes([mode | (number & 1) << 7]) + seed)
    arguments = [sys.argv[0], f"-artifact_prefix={os.getcwd()}/", "-max_len=20000", *sys.argv[1:], str(corpus)]
    atheris.Setup(arguments, _target(Path(folder.name) / "store"))
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    atheris.Fuzz()


def _target(root: Path) -> Callable[[bytes], None]:
    store = DirectoryStore(str(root), durable=False, wait_seconds=0)
    keyed = DirectoryStore(str(root), durable=False, wait_seconds=0)
    keyed.seal = seal = signature.Seal("fuzz", [bytes(32)])
    path = Path(store.path(KEY))
    path.parent.mkdir(parents=True)
    part, content = _holder().part(PART)
    whole = record.encode(part.key, content)
    for one_store in (store, keyed):
        one_store.put(part.key, content, (), repair=False)

    def one(data: bytes) -> None:
        mode, data = data[:1] or b"\0", bytearray(data[1:])
        kind = mode[0] & 3
        if kind:
            _repair(data, chunks=kind > 1, seal=seal if kind > 2 else None)
        try:
            if mode[0] & 0x80:
                path.write_bytes(data)
                place = keyed if kind > 2 else store
            else:
                place = MemoryStore({KEY: bytes(data), part.key: whole}, "memory:fuzz")
            found = place.get(KEY)
            if found.header.raw_bytes <= MAX_STATE_BYTES:
                sizes = tuple(map(len, parts.segments(place, found)))
                if sizes != found.header.segments:
                    msg = f"segments of {sizes} bytes, though the header says {found.header.segments}"
                    raise AssertionError(msg)
            found.verify()
        except ana.ANAError:
            return

    return one


def _repair(data: bytearray, *, chunks: bool, seal: signature.Seal | None) -> None:
    """Make digests right, so that what lies behind them is reached."""
    if len(data) < header.MIN_RECORD_BYTES:
        return
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if not header.MIN_RECORD_BYTES <= end <= len(data):
        return
    if chunks:
        _repair_chunks(data, end)
    (flags,) = struct.unpack_from("<H", data, 18)
    struct.pack_into("<H", data, 18, flags & ~SIGNED | (SIGNED if seal else 0))
    head = bytes(data[: end - 32])
    data[end - 32 : end] = raw_record.digest(head) if seal is None else seal.sign(KEY, head)


def _repair_chunks(data: bytearray, end: int) -> None:
    *_, n_children, n_segments, n_chunks, key_size, class_size, _, _, _, _, _ = raw_record.FIXED.unpack_from(data, 8)
    table = 8 + raw_record.FIXED.size + key_size + class_size
    for _ in range(n_children):
        if table + 2 > end:
            return
        table += 2 + struct.unpack_from("<H", data, table)[0]
    table += 8 * n_segments
    count = min(n_chunks, 100)
    if table + 48 * count > end:
        return
    at = end
    for number in range(count):
        stored, raw, method = struct.unpack_from("<IIB", data, table + 48 * number)
        if method == raw_record.PART:
            # Its bytes lie elsewhere, and its digest is that of the part.
            continue
        frame = bytes(data[at : at + stored])
        content = frame[-raw:] if method == raw_record.RAW and 0 < raw <= len(frame) else frame
        data[table + 48 * number + 16 : table + 48 * number + 48] = raw_record.digest(content)
        at += stored


def _holder() -> record.Content:
    """Return a state with a `bytes` object, and a buffer that is large enough to be a part."""
    segments = [memoryview(b"stream" * 20), memoryview(bytes(record.LARGE_BYTES)), memoryview(b"b" * 3000)]
    return record.content("module:Class", segments, None, (2,))


def _seeds() -> list[bytes]:
    """Return records of all kinds: compressed, raw, in several chunks, with children, buffers, hints and parts."""
    text, noise = b"some text " * 1000, raw_record.digest(b"seed") * 150
    states = [[b"\x80\x05N."], [text], [noise], [text, noise, b""], [b"", b"x" * 9000], [text, *[b"y" * 700] * 5]]
    found = []
    for number, segments in enumerate(states):
        content = record.content("module:Class", [memoryview(segment) for segment in segments])
        children = tuple(f"child-{child}" for child in range(number))
        found.append(record.encode(KEY, content, children))
    # Several chunks, which ana itself makes only of large states.
    frames = [raw_record.zstd_chunk(text), raw_record.raw_chunk(noise), raw_record.zstd_chunk(bytes(5000))]
    pieces = [text, noise, bytes(5000)]
    content_digest = raw_record.content_digest("module:Class", [text + noise, bytes(5000)], pieces)
    held, part = _holder(), _holder().part(PART)[0]
    hints = ("host-1-0123456789abcdef:4096:300", "")
    found.append(record.encode(KEY, held.with_parts([PART]), ("child", part.key), record.Encoding(hints=hints)))
    lengths = (len(text) + len(noise), 5000)
    several = raw_record.Record(KEY, "module:Class", ("a",), lengths, tuple(frames), content=content_digest)
    found.append(raw_record.write(several))
    return found


if __name__ == "__main__":
    main()
