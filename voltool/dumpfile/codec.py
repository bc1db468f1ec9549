"""How frames are compressed: the one place that knows which lz4 this machine has.

lz4 is the ``lz4`` package where it imports, else ``liblz4.so.1`` through ctypes (every machine with systemd has it), else
zlib level 1. A frame says how it was compressed, so a reader needs no luck: a machine without any lz4 decompresses in plain
Python, which is slow.
Part of what is shipped to servers.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import zlib
from typing import Callable, NamedTuple, Optional, Tuple

from voltool.dumpfile.format import CODEC_LZ4, CODEC_NONE, CODEC_ZLIB, MAX_RAW, damaged
from voltool.dumpfile.lz4_block import decompress_block

#: Below this many bytes compressing costs more than it saves.
SMALLEST = 64
_LEAST_ROOM = 64 << 10


class Lz4(NamedTuple):
    """An LZ4 block codec: ``compress(raw)``; ``decompress(stored, raw_length)`` raises ValueError on bad bytes."""

    source: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]


@functools.cache
def find_lz4() -> Optional[Lz4]:
    """The lz4 of this machine; None where there is none."""
    return _lz4_package() or _lz4_library()


def _lz4_package() -> Optional[Lz4]:
    try:
        from lz4 import block
    except ImportError:
        return None

    def compress(raw: bytes) -> bytes:
        packed: bytes = block.compress(raw, mode="fast", acceleration=1, store_size=False)
        return packed

    def decompress(stored: bytes, raw: int) -> bytes:
        try:
            data: bytes = block.decompress(stored, uncompressed_size=raw)
        except block.LZ4BlockError as error:
            raise ValueError(str(error)) from None
        return data

    return Lz4("package", compress, decompress)


def _lz4_library() -> Optional[Lz4]:
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError:
        return None
    library.LZ4_compress_default.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    library.LZ4_decompress_safe.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]

    local = threading.local()

    def room(size: int) -> ctypes.Array[ctypes.c_char]:
        """Of this thread, used again: to get and to clear new memory for each frame costs as much as the codec does."""
        buffer: Optional[ctypes.Array[ctypes.c_char]] = getattr(local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = local.buffer = ctypes.create_string_buffer(max(size, _LEAST_ROOM))
        return buffer

    def compress(raw: bytes) -> bytes:
        raw = bytes(raw)
        bound = int(library.LZ4_compressBound(len(raw)))
        buffer = room(bound)
        size = library.LZ4_compress_default(raw, buffer, len(raw), bound)
        return ctypes.string_at(buffer, size) if size > 0 else raw

    def decompress(stored: bytes, raw: int) -> bytes:
        stored = bytes(stored)
        buffer = room(raw)
        if library.LZ4_decompress_safe(stored, buffer, len(stored), raw) != raw:
            raise ValueError("not an LZ4 block of that length")
        return ctypes.string_at(buffer, raw)

    return Lz4("liblz4", compress, decompress)


def lz4_source() -> str:
    """``package``, ``liblz4``, or empty where this machine has no lz4."""
    lz4 = find_lz4()
    return lz4.source if lz4 else ""


def default_codec() -> int:
    """LZ4 where this machine has it, else zlib."""
    return CODEC_LZ4 if find_lz4() else CODEC_ZLIB


def codec_named(name: str) -> int:
    """The codec for a configured name: ``none``, or ``lz4`` (zlib where there is no lz4)."""
    return CODEC_NONE if name == "none" else default_codec()


def compress(raw: bytes, codec: int) -> Tuple[int, bytes]:
    """``(codec used, stored bytes)``: CODEC_NONE when it does not shrink."""
    if codec == CODEC_NONE or len(raw) < SMALLEST:
        return CODEC_NONE, raw
    lz4 = find_lz4() if codec == CODEC_LZ4 else None
    stored = lz4.compress(raw) if lz4 else zlib.compress(raw, 1)
    if len(stored) >= len(raw):
        return CODEC_NONE, raw
    return (CODEC_LZ4 if lz4 else CODEC_ZLIB), stored


def decompress(codec: int, stored: bytes, raw: int, where: str = "") -> bytes:
    """The ``raw`` bytes of a frame; IntegrityError when they are not what they should be, never more than ``raw``."""
    if raw > MAX_RAW:
        raise damaged("a frame claims an absurd length", where)
    if codec == CODEC_NONE:
        data = stored
    elif codec == CODEC_LZ4:
        data = _decompress_lz4(stored, raw, where)
    elif codec == CODEC_ZLIB:
        data = _decompress_zlib(stored, raw, where)
    else:
        raise damaged(f"a frame is compressed in an unknown way ({codec})", where)
    if len(data) != raw:
        raise damaged("a frame's bytes do not have the length it claims", where)
    return data


def _decompress_lz4(stored: bytes, raw: int, where: str) -> bytes:
    lz4 = find_lz4()
    try:
        return lz4.decompress(stored, raw) if lz4 else decompress_block(bytes(stored), raw)
    except ValueError:
        raise damaged("a frame cannot be decompressed", where) from None


def _decompress_zlib(stored: bytes, raw: int, where: str) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(stored, raw + 1)
    except zlib.error:
        raise damaged("a frame cannot be decompressed", where) from None
    return data
