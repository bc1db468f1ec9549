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
from typing import Any, Callable, NamedTuple, Optional, Tuple, Union

from voltool.dumpfile.format import CODEC_LZ4, CODEC_NONE, CODEC_ZLIB, MAX_RAW, damaged
from voltool.dumpfile.lz4_block import decompress_block

#: Below this many bytes compressing costs more than it saves.
SMALLEST = 64
#: What can be compressed and decompressed.
Buffer = Union[bytes, bytearray, memoryview]


class Lz4(NamedTuple):
    """An LZ4 block codec: ``compress(raw)``; ``decompress(stored, raw_length)`` raises ValueError on bad bytes."""

    source: str
    compress: Callable[[Buffer], Buffer]
    decompress: Callable[[Buffer, int], bytes]


@functools.cache
def find_lz4() -> Optional[Lz4]:
    """The lz4 of this machine; None where there is none."""
    return _lz4_package() or _lz4_library()


def _lz4_package() -> Optional[Lz4]:
    try:
        from lz4 import block
    except ImportError:
        return None

    def compress(raw: Buffer) -> Buffer:
        packed: bytes = block.compress(raw, mode="fast", acceleration=1, store_size=False)
        return packed

    def decompress(stored: Buffer, raw: int) -> bytes:
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
    for function in (library.LZ4_compress_default, library.LZ4_decompress_safe):
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    scratch = _Scratch()

    def compress(raw: Buffer) -> Buffer:
        bound = int(library.LZ4_compressBound(len(raw)))
        buffer = scratch.room(bound)
        size = library.LZ4_compress_default(_address(raw), buffer, len(raw), bound)
        return ctypes.string_at(buffer, size) if size > 0 else raw

    def decompress(stored: Buffer, raw: int) -> bytes:
        buffer = scratch.room(raw)
        if library.LZ4_decompress_safe(_address(stored), buffer, len(stored), raw) != raw:
            raise ValueError("not an LZ4 block of that length")
        return ctypes.string_at(buffer, raw)

    return Lz4("liblz4", compress, decompress)


class _Scratch(threading.local):
    """Memory that each thread uses again and again: to zero a new buffer costs more than to decompress into it."""

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(1)

    def room(self, size: int) -> ctypes.Array[ctypes.c_char]:
        """At least so many bytes."""
        if len(self._buffer) < size:
            self._buffer = ctypes.create_string_buffer(size)
        return self._buffer


def _address(data: Buffer) -> Any:
    """What the library is given for ``data``, without a copy where it can be had."""
    if isinstance(data, bytes):
        return data
    view = memoryview(data)
    return bytes(view) if view.readonly else (ctypes.c_char * len(view)).from_buffer(view)


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


def compress(raw: Buffer, codec: int) -> Tuple[int, Buffer]:
    """``(codec used, stored bytes)``: CODEC_NONE, and ``raw`` itself, when it does not shrink."""
    if codec == CODEC_NONE or len(raw) < SMALLEST:
        return CODEC_NONE, raw
    lz4 = find_lz4() if codec == CODEC_LZ4 else None
    stored: Buffer = lz4.compress(raw) if lz4 else zlib.compress(raw, 1)
    if len(stored) >= len(raw):
        return CODEC_NONE, raw
    return (CODEC_LZ4 if lz4 else CODEC_ZLIB), stored


def decompress(codec: int, stored: Buffer, raw: int, where: str = "") -> bytes:
    """The ``raw`` bytes of a frame; IntegrityError when they are not what they should be, never more than ``raw``."""
    if raw > MAX_RAW:
        raise damaged("a frame claims an absurd length", where)
    if codec == CODEC_NONE:
        data = bytes(stored)
    elif codec == CODEC_LZ4:
        data = _decompress_lz4(stored, raw, where)
    elif codec == CODEC_ZLIB:
        data = _decompress_zlib(stored, raw, where)
    else:
        raise damaged(f"a frame is compressed in an unknown way ({codec})", where)
    if len(data) != raw:
        raise damaged("a frame's bytes do not have the length it claims", where)
    return data


def _decompress_lz4(stored: Buffer, raw: int, where: str) -> bytes:
    lz4 = find_lz4()
    try:
        return lz4.decompress(stored, raw) if lz4 else decompress_block(bytes(stored), raw)
    except ValueError:
        raise damaged("a frame cannot be decompressed", where) from None


def _decompress_zlib(stored: Buffer, raw: int, where: str) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(stored, raw + 1)
    except zlib.error:
        raise damaged("a frame cannot be decompressed", where) from None
    return data
