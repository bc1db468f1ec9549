"""A chain's complete manifest as a dump without data, for a host that has lost its home stamps."""

from __future__ import annotations

from collections.abc import Iterator

from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.plan import selected_entries, selected_objects
from voltool.dumpfile.selection import Selection
from voltool.tree.manifest import chunk_runs, manifest_stream


def chain_manifest(chain: Chain) -> Iterator[bytes]:
    """The bytes: OBJECTS, ENTRIES and CHUNKS frames of the chain's newest state, level 0 in form."""
    return manifest_stream(chain.header, chain.objects(), chain.entries(), _chunk_records(chain, None))


def wanted_manifest(chain: Chain, selection: Selection | None) -> Iterator[bytes]:
    """The same of what is selected, with the owners' names: what a directory is to be compared with and made like."""
    objects, entries = selected_objects(chain, selection), selected_entries(chain, selection)
    return manifest_stream(chain.header, objects, entries, _chunk_records(chain, selection), chain.owners())


def _chunk_records(chain: Chain, selection: Selection | None) -> Iterator[bytes]:
    """The chunk hashes of every large file: each dump's laid over those of the dumps below it.

    Where they do not add up to the content's hash (a hole punched over whole chunks leaves no hash), none are given, and
    the host sends such a file whole: a wrong hash could make it take a changed chunk for an unchanged one.
    """
    for record in selected_objects(chain, selection):
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
            yield from chunk_runs(final.number, runs)


def _with_gaps(size: int, hashes: dict[int, bytes]) -> Iterator[tuple[bytes, int]]:
    """All chunk hashes of a file, those that are not there as zeros."""
    position = 0
    for index in sorted(hashes):
        if index > position:
            yield fmt.ZERO_CHUNK, index - position
        yield hashes[index], 1
        position = index + 1
    yield fmt.ZERO_CHUNK, -(-size // fmt.CHUNK_SIZE) - position
