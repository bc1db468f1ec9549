"""A chain's complete manifest as a dump without data, for a host that has lost its home stamps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.codec import default_codec
from voltool.dumpfile.writer import DumpWriter


def manifest_stream(chain: Chain) -> Iterator[bytes]:
    """The bytes: OBJECTS, ENTRIES and CHUNKS frames of the chain's newest state, level 0 in form."""
    waiting: list[bytes] = []
    writer = DumpWriter(waiting.append, default_codec())
    writer.begin(replace(chain.header, level=0, base_state_id=None, base_dump_id=None))
    for kind, records in (
        (fmt.OBJECTS, chain.objects()),
        (fmt.ENTRIES, chain.entries()),
        (fmt.CHUNKS, _chunk_records(chain)),
    ):
        for batch in _batches(records):
            writer.records(kind, batch, key_of=lambda record: int.from_bytes(record[:8], "big"))
            yield from _taken(waiting)
    totals = chain.totals
    writer.finish(totals.state_id, totals.objects, totals.entries)
    yield from _taken(waiting)


def _taken(waiting: list[bytes]) -> Iterator[bytes]:
    if waiting:
        yield b"".join(waiting)
        waiting.clear()


def _batches(records: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record) + 4
        if size >= fmt.TARGET_RAW // 2:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _chunk_records(chain: Chain) -> Iterator[bytes]:
    """The chunk hashes of every large file: each dump's laid over those of the dumps below it.

    Where they do not add up to the content's hash (a hole punched over whole chunks leaves no hash), none are given, and
    the host sends such a file whole: a wrong hash could make it take a changed chunk for an unchanged one.
    """
    for record in chain.objects():
        if int.from_bytes(record[20:28], "big") <= fmt.CHUNK_SIZE:
            continue
        final = fmt.decode_object(record)
        runs: dict[int, bytes] = {}
        for reader in chain.readers:
            version = reader.object(final.number)
            if version is None or fmt.is_object_tombstone(version) or version[fmt.STATE_OFFSET] & fmt.STATE_UNKNOWN:
                continue  # what came of a file that could not be read to its end counts for nothing
            if reader.begins_fresh(final.number):
                runs.clear()
            for first, hashes in reader.chunk_runs(final.number):
                runs.update(enumerate(hashes, first))
            count = -(-fmt.decode_object(version).size // fmt.CHUNK_SIZE)
            runs = {index: value for index, value in runs.items() if index < count}
        if fmt.content_hash(final.size, _with_gaps(final.size, runs)) == final.content:
            yield from _runs(final.number, runs)


def _with_gaps(size: int, hashes: dict[int, bytes]) -> Iterator[tuple[bytes, int]]:
    """All chunk hashes of a file, those that are not there as zeros."""
    position = 0
    for index in sorted(hashes):
        if index > position:
            yield fmt.ZERO_CHUNK, index - position
        yield hashes[index], 1
        position = index + 1
    yield fmt.ZERO_CHUNK, -(-size // fmt.CHUNK_SIZE) - position


def _runs(number: int, hashes: dict[int, bytes]) -> Iterator[bytes]:
    indexes = sorted(hashes)
    start = 0
    for at in range(1, len(indexes) + 1):
        if at == len(indexes) or indexes[at] != indexes[at - 1] + 1 or at - start >= 8192:
            yield fmt.encode_chunk_run(number, indexes[start], [hashes[index] for index in indexes[start:at]])
            start = at
