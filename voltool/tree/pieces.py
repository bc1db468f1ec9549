"""Large files in pieces: chunk by chunk read, hashed, compared with the base's hashes, compressed. What a worker process
does. Ships to servers."""

from __future__ import annotations

import os
from typing import Any, List, Optional, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.writer import PackedFrame, pack_frame
from voltool.tree.blocks import BLOCK_HASH_SIZE, HOLE_HASH, BlockTable, short_hashes
from voltool.tree.layout import data_segments, with_holes
from voltool.tree.opening import UNREADABLE, VANISHED, Opener, reason_of
from voltool.tree.room import Room
from voltool.tree.stamps import encode_stamp


class PieceReader:
    """Reads pieces of large files through ``opener``."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._settings = opener.settings
        #: One extent and a chunk: most chunks are a frame as they were read.
        self._frame = memoryview(bytearray(fmt.EXTENT_SIZE + fmt.CHUNK_SIZE))
        self._buffer = self._frame[fmt.EXTENT_SIZE :]

    def read(
        self,
        room: Room,
        number: int,
        path: bytes,
        name: bytes,
        inode: int,
        start: int,
        end: int,
        base_name: bytes,
        fresh: bool,
    ) -> Tuple[Any, ...]:
        """One piece ``[start, end)`` of a large file: frames, chunk hashes, block hashes, and how it was found."""
        try:
            opened = self._opener.open(self._opener.directory(path), name, inode)
        except FileNotFoundError:
            return [], [], b"", (VANISHED, b"", b"", False, "it vanished", 0, b""), 0
        except OSError as error:
            return [], [], b"", (UNREADABLE, b"", b"", False, error.strerror or str(error), 0, b""), 0
        try:
            frames, chunks, shorts, read = self._read_piece(
                room, number, opened.descriptor, start, end, base_name, fresh
            )
            beside = self._opener.attributes(opened.descriptor)
        except OSError as error:
            return [], [], b"", (UNREADABLE, b"", b"", False, error.strerror or str(error), 0, b""), 0
        finally:
            os.close(opened.descriptor)
        after = encode_stamp(beside.status)
        settled, status = self._opener.judge(opened, after)
        found = (
            status,
            encode_stamp(opened.status),
            after,
            settled,
            reason_of(status),
            (beside.flags, beside.project),
            beside.xattrs,
        )
        return frames, chunks, shorts, found, read

    def _read_piece(
        self, room: Room, number: int, descriptor: int, start: int, end: int, base_name: bytes, fresh: bool
    ) -> Tuple[List[Tuple[Any, ...]], List[bytes], bytes, int]:
        base = BlockTable.open(os.path.join(self._settings.blocks, base_name)) if base_name else None
        segments = list(data_segments(descriptor, start, end))
        chunks: List[bytes] = []
        shorts: List[bytes] = []
        frames: List[Tuple[Any, ...]] = []
        read = 0
        for at in range(start, end, fmt.CHUNK_SIZE):
            stop = min(at + fmt.CHUNK_SIZE, end)
            inside = _clip(segments, at, stop)
            view = self._read_chunk(descriptor, inside, at, stop)
            read += sum(length for _offset, length in inside)
            chunk, short = self._hash_chunk(view, inside, at, stop)
            chunks.append(chunk)
            shorts.append(short)
            if base is not None and not fresh:
                pieces = _changed_pieces(base, at, stop, chunk, short, inside)
            else:
                pieces = with_holes(inside, at, stop)
            frame = self._chunk_frame(number, view, at, pieces, fresh and at == 0)
            if frame is not None:
                frames.append(room.keep(frame))
        if base is not None:
            base.close()
        return frames, chunks, b"".join(shorts), read

    def _read_chunk(self, descriptor: int, segments: List[Tuple[int, int]], at: int, stop: int) -> memoryview:
        view = self._buffer[: stop - at]
        covered = sum(length for _offset, length in segments)
        if covered < stop - at:
            view[:] = bytes(stop - at)
        for offset, length in segments:
            part = view[offset - at : offset - at + length]
            done = 0
            while done < length:
                count = os.preadv(descriptor, [part[done:]], offset + done)
                if not count:
                    part[done:] = bytes(
                        length - done
                    )  # truncated meanwhile: its stamp has changed, and it is read again
                    break
                done += count
        return view

    def _hash_chunk(self, view: memoryview, segments: List[Tuple[int, int]], at: int, stop: int) -> Tuple[bytes, bytes]:
        if not segments:
            return fmt.ZERO_CHUNK, HOLE_HASH * (-(-(stop - at) // fmt.BLOCK_SIZE))
        blocks = fmt.block_hashes(view)
        chunk = fmt.ZERO_CHUNK if fmt.is_zero(view) else fmt.chunk_hash(blocks)
        return chunk, short_hashes(blocks, self._settings.key, segments, at, stop)

    def _chunk_frame(
        self, number: int, view: memoryview, at: int, pieces: List[Tuple[int, int, bool]], first: bool
    ) -> Optional[PackedFrame]:
        if not pieces:
            return None
        if pieces == [(at, len(view), True)]:
            flags = fmt.EXTENT_FRESH if first else 0
            fmt.EXTENT.pack_into(self._frame, 0, number, at, len(view), fmt.EXTENT_DATA, flags)
            whole = self._frame[: fmt.EXTENT_SIZE + len(view)]
            return pack_frame(fmt.DATA, whole, 1, self._settings.codec, number, at)
        extents: List[fmt.Extent] = []
        parts: List[bytes] = []
        for offset, length, is_data in pieces:
            flags = fmt.EXTENT_FRESH if first and not extents else 0
            kind = fmt.EXTENT_DATA if is_data else fmt.EXTENT_HOLE
            extents.append(fmt.Extent(number, offset, length, kind, flags))
            if is_data:
                parts.append(bytes(view[offset - at : offset - at + length]))
        raw = fmt.encode_data(extents, parts)
        return pack_frame(fmt.DATA, raw, len(extents), self._settings.codec, number, extents[0].offset)


def _changed_pieces(
    base: BlockTable, at: int, stop: int, chunk: bytes, short: bytes, segments: List[Tuple[int, int]]
) -> List[Tuple[int, int, bool]]:
    """What of the chunk must be sent to one who has the base: runs of blocks whose hashes differ."""
    old_chunk, old_short = base.chunk(at // fmt.CHUNK_SIZE)
    if not base.blocks:
        return [] if chunk == old_chunk else with_holes(segments, at, stop)
    if short == old_short:
        return [] if chunk == old_chunk else with_holes(segments, at, stop)
    pieces: List[Tuple[int, int, bool]] = []
    size = BLOCK_HASH_SIZE
    for index in range(0, len(short), size):
        mine = short[index : index + size]
        theirs = old_short[index : index + size] or HOLE_HASH
        if mine == theirs:
            continue
        offset = at + index // size * fmt.BLOCK_SIZE
        length = min(fmt.BLOCK_SIZE, stop - offset)
        is_data = mine != HOLE_HASH
        if pieces and pieces[-1][2] == is_data and pieces[-1][0] + pieces[-1][1] == offset:
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + length, is_data)
        else:
            pieces.append((offset, length, is_data))
    return pieces


def _clip(segments: List[Tuple[int, int]], at: int, stop: int) -> List[Tuple[int, int]]:
    clipped = []
    for offset, length in segments:
        low, high = max(offset, at), min(offset + length, stop)
        if low < high:
            clipped.append((low, high - low))
    return clipped
