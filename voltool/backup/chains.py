"""Opens the chain that a dump rests on, pinned against removal while it is used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from voltool.backup.ports import World
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.lru import Lru
from voltool.dumpfile.reader import DumpReader, ObjectExtents
from voltool.errors import IntegrityError, VoltoolError
from voltool.model import StoredDump
from voltool.policy.chain import chain_of


@dataclass(frozen=True)
class OpenedChain:
    """The dumps, oldest first, and their bytes."""

    dumps: tuple[StoredDump, ...]
    chain: Chain

    @property
    def dump_ids(self) -> tuple[str, ...]:
        """The ids, oldest first."""
        return tuple(dump.header.dump_id for dump in self.dumps)

    @property
    def stored_bytes(self) -> int:
        """The length of all dumps together."""
        return sum(reader.totals.stored_bytes for reader in self.chain.readers)


@contextlib.contextmanager
def open_chain(
    world: World, dump: StoredDump, purpose: str, *, kept_data: Lru[ObjectExtents] | None = None, sweep: bool = True
) -> Iterator[OpenedChain]:
    """The chain of ``dump`` while the context lasts; headers, trailers, indexes and state ids have been checked.

    ``kept_data`` is for readers in no order (`DumpReader`).
    Raises IntegrityError where one is damaged, missing or does not fit, NotFoundError where a file is gone.
    """
    dumps = chain_of(dump, world.catalog.dumps(dump.header.volume_uuid))
    if dumps[0].header.base_state_id is not None:
        raise IntegrityError(
            f"the dump {dump.header.dump_id[:12]} cannot be read without its base",
            where=_name(world, dumps[0]),
            why=f"no dump of the state {dumps[0].header.base_state_id[:12]} is known in {dump.store}",
            remedy="voltool dumps --deleted shows whether it was dropped, and voltool undelete brings it back; or choose another"
            " point in time (--at)",
        )
    with contextlib.ExitStack() as stack:
        readers = []
        swept: set[tuple[str, str]] = set()
        for part in dumps:
            store = world.stores.open(part.store)
            place = (part.store, part.file.partition("/")[0])
            if sweep and place not in swept:  # pins of the killed go with the next run, whatever it is
                swept.add(place)
                with contextlib.suppress(VoltoolError):  # a store that cannot be written to can be read
                    store.sweep(place[1])
            stack.enter_context(store.pin(part.file, purpose))
            source = store.open(part.file)
            stack.callback(source.close)
            readers.append(_open(DumpReader(source, _name(world, part), kept_data), part))
        yield OpenedChain(dumps, Chain(readers))


def _open(reader: DumpReader, dump: StoredDump) -> DumpReader:
    if (reader.header.dump_id, reader.state_id) != (dump.header.dump_id, dump.totals.state_id):
        raise IntegrityError(
            "a dump is not the one it should be",
            where=reader.name,
            why="its id or its state is another than the catalog remembers: the file was replaced",
            remedy="another copy of this dump",
        )
    return reader


def _name(world: World, dump: StoredDump) -> str:
    directory = world.stores.open(dump.store).path_on_this_host()
    place = os.fsdecode(directory) if directory is not None else dump.store
    return f"{place.rstrip('/')}/{dump.file}"
