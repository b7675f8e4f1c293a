"""zstd frames, one per call, by the `zstandard` package or, without it, by Python's `compression.zstd`.

Both use the same format, so stores are interchangeable. `docs/format.md` describes it.
"""

import sys
import threading
from typing import Any

__all__ = ["Bytes", "FrameError", "compress", "decompress", "reset"]

Bytes = bytes | bytearray | memoryview

_WINDOW_LOG = 24
"""16 MiB, the limit of a chunk: our frames never need a larger window."""


class FrameError(Exception):
    """The bytes are not a single zstd frame of the expected size; the message says how it shows."""


class _Zstandard(threading.local):
    """The `zstandard` package. It crashes when threads share a (de)compressor, so each thread has its own."""

    def __init__(self, module: Any) -> None:
        self.error = module.ZstdError
        self.module = module
        self._compressors: dict[int, Any] = {}
        self._decompressor = module.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)

    def compress(self, data: Bytes, level: int) -> bytes:
        compressor = self._compressors.get(level)
        if compressor is None:
            compressor = self.module.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
            self._compressors[level] = compressor
        frame: bytes = compressor.compress(data)
        return frame

    def content_size(self, frame: Bytes) -> int:
        size: int = self.module.get_frame_parameters(frame).content_size
        return size

    def decompress(self, frame: Bytes, _: int) -> bytes:
        content: bytes = self._decompressor.decompress(frame, allow_extra_data=False)
        return content


class _Standard(threading.local):
    """Python's own `compression.zstd`, from 3.14 on."""

    def __init__(self, module: Any) -> None:
        self.error = module.ZstdError
        self.module = module
        self._compressors: dict[int, Any] = {}
        self._options = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}

    def compress(self, data: Bytes, level: int) -> bytes:
        compressor = self._compressors.get(level)
        if compressor is None:
            compressor = self._compressors[level] = self.module.ZstdCompressor(level=level)
        # Without this, the header of the frame does not state its size.
        compressor.set_pledged_input_size(len(data))
        frame: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
        return frame

    def content_size(self, frame: Bytes) -> int | None:
        size: int | None = self.module.get_frame_info(frame).decompressed_size
        return size

    def decompress(self, frame: Bytes, size: int) -> bytes:
        # One decompressor reads one frame.
        decompressor = self.module.ZstdDecompressor(options=self._options)
        content: bytes = decompressor.decompress(frame, size)
        if not decompressor.eof or decompressor.unused_data:
            msg = "the frame does not end where its bytes end"
            raise self.error(msg)
        return content


def compress(data: Bytes, level: int) -> bytes:
    """Return `data` as one frame that states its size and has no checksum; `level` is the zstd level."""
    return _ready().compress(data, level)


def decompress(frame: Bytes, size: int) -> bytes:
    """Return the content of a frame, which must be `size` bytes; never allocates more. Raises FrameError."""
    library = _ready()
    try:
        claimed = library.content_size(frame)
        if claimed != size:
            msg = f"claims {claimed} bytes instead of {size}"
            raise FrameError(msg)
        content = library.decompress(frame, size)
    except library.error as error:
        msg = f"cannot be decompressed ({error})"
        raise FrameError(msg) from None
    if len(content) != size:
        msg = f"has {len(content)} bytes instead of {size}"
        raise FrameError(msg)
    return content


def reset() -> None:
    """Replace this process's (de)compressors, because a forked child must not use its parent's."""
    global _codec  # noqa: PLW0603 - one per process, replaced after fork
    if _codec is not None:
        _codec = type(_codec)(_codec.module)


def _ready() -> _Zstandard | _Standard:
    global _codec  # noqa: PLW0603 - one per process, made when it is needed
    if _codec is None:
        _codec = _new_codec()
    return _codec


def _new_codec() -> _Zstandard | _Standard:
    try:
        import zstandard  # noqa: PLC0415 - has no wheel for some Pythons
    except ImportError as error:
        try:
            from compression import zstd  # noqa: PLC0415 - Python 3.14 and newer, unless built without it
        except ImportError:
            msg = "ana needs zstd, and this Python was built without it: pip install zstandard"
            raise ImportError(msg) from error
        return _Standard(zstd)
    return _Zstandard(zstandard)


def _has_package() -> bool:
    """Return whether `zstandard` is installed, as importlib.util tells, which takes a millisecond to import."""
    if "zstandard" in sys.modules:
        return sys.modules["zstandard"] is not None
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    return any(finder.find_spec("zstandard", None) is not None for finder in finders)


# Importing the package takes a tenth of `import ana`, and many processes need none. Without it, say so at once.
_codec: _Zstandard | _Standard | None = None if _has_package() else _new_codec()
