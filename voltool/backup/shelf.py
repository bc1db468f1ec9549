"""The dumps of one volume in one store, published and discarded, as they lie there now; dropped and brought back.

What is dropped goes to the store's bin. Whatever happened meanwhile, or was cut off, `mend` brings back what a published dump
rests on, as long as the bin has it. The catalog is told where it can be told: a full disk keeps nobody from making room.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from voltool.backup.discover import read_dump
from voltool.backup.ports import World
from voltool.errors import RefusedError, VoltoolError
from voltool.events import Notice
from voltool.model import StoredDump
from voltool.policy.chain import Lineage, recency
from voltool.stores.contract import Store, StoredFile
from voltool.stores.naming import DumpName, parse_name

_NAMED = 12


@dataclass(frozen=True)
class Discarded:
    """A dump in a store's bin, by what its file's name says; ``since_ns``: when it was dropped, by the store's clock."""

    store: str
    file: str
    name: DumpName
    size: int
    since_ns: int


@dataclass(frozen=True)
class Spared:
    """A dump that should go and stays, and why."""

    dump: StoredDump
    why: str


def bin_of(store: Store, volumes: Collection[str] | None = None) -> list[Discarded]:
    """What lies in the store's bin, by name; of the volumes of these names only. What is no dump there is none of ours and never
    touched."""
    prefixes = [""] if volumes is None else [f"{name}/" for name in sorted(volumes)]
    files = [file for prefix in prefixes for file in store.discarded(prefix)]
    named = ((file, parse_name(file.name)) for file in files)
    return [Discarded(store.url, file.name, name, file.size, file.mtime_ns) for file, name in named if name is not None]


class Shelf:
    """``dumps`` are those of volume ``uuid`` that are published in ``store`` now. ``known``: those that the catalog has."""

    def __init__(self, world: World, store: Store, uuid: str, known: Iterable[StoredDump]) -> None:
        self._world = world
        self.store = store
        self.uuid = uuid
        self._known = {
            dump.header.dump_id: dump
            for dump in known
            if dump.store == store.url and dump.header.volume_uuid == uuid and _is_named_so(dump)
        }
        self._strange: set[str] = set()
        self.dumps: list[StoredDump] = []
        self.look()

    def look(self) -> None:
        """See what is there now, dumps that the catalog does not know too."""
        there: dict[str, StoredDump] = {}
        for name in sorted(self._names()):
            for file in self.store.list(name + "/"):
                dump = self._learn(file)
                if dump is not None:
                    there[dump.header.dump_id] = dump
        self.dumps = sorted(there.values(), key=recency)

    def _names(self) -> set[str]:
        return {dump.file.rpartition("/")[0] for dump in self._known.values()}

    def _learn(self, file: StoredFile) -> StoredDump | None:
        name = parse_name(file.name)
        if name is None or file.name in self._strange:
            return None
        known = self._known.get(name.dump_id)
        if known is not None:
            return known if known.file == file.name else None
        dump = read_dump(self._world, self.store, file)
        if dump is None or dump.header.volume_uuid != self.uuid:
            self._strange.add(file.name)
            return None
        self._remember(dump)
        return dump

    def _remember(self, dump: StoredDump) -> None:
        self._known[dump.header.dump_id] = dump
        with contextlib.suppress(VoltoolError):
            self._world.catalog.add_dump(dump)

    def mend(self) -> tuple[StoredDump, ...]:
        """Bring back from the bin what published dumps rest on; what was brought back. A prune that was killed, or that came
        between a dump's last look at its base and its publishing, leaves such dumps."""
        brought: set[str] = set()
        tried: set[str] = set()
        while True:
            wanted = self._missing_bases()
            binned = bin_of(self.store, self._names()) if wanted else []
            found = [each for each in binned if each.name.dump_id in wanted and each.file not in tried]
            if not found:
                back = tuple(dump for dump in self.dumps if dump.header.dump_id in brought)
                for dump in back:
                    self._remember(dump)
                return back
            for each in found:
                tried.add(each.file)
                with contextlib.suppress(RefusedError):  # something else has its name
                    self.store.recover(each.file)
                    brought.add(each.name.dump_id)
                    message = f"dump {each.name.dump_id[:_NAMED]} is back: a dump that is there rests on it"
                    self._world.reporter.report(Notice("info", message))
            self.look()

    def _missing_bases(self) -> set[str]:
        lineage = Lineage(self.dumps)
        firsts = [lineage.chain_of(dump)[0].header for dump in self.dumps]
        return {header.base_dump_id for header in firsts if header.base_state_id and header.base_dump_id}

    def drop(self, dumps: Sequence[StoredDump]) -> tuple[list[StoredDump], list[Spared]]:
        """Discard ``dumps``, what rests on others first; those that went, and those that could not go with what they rest on."""
        lineage = Lineage(self.dumps)
        dropped: list[StoredDump] = []
        spared: dict[str, Spared] = {}
        there = {dump.header.dump_id: dump.file for dump in self.dumps}
        for dump in sorted(dumps, key=lambda dump: dump.header.level, reverse=True):
            if dump.header.dump_id in spared or there.get(dump.header.dump_id) != dump.file:
                continue
            try:
                self.store.discard(dump.file)
            except VoltoolError as error:
                spared[dump.header.dump_id] = Spared(dump, _why(error))
                for base in lineage.chain_of(dump)[:-1]:
                    why = f"dump {dump.header.dump_id[:_NAMED]}, which rests on it, is still there"
                    spared.setdefault(base.header.dump_id, Spared(base, why))
                continue
            dropped.append(dump)
            with contextlib.suppress(VoltoolError):
                self._world.catalog.remove_dump(dump.header.dump_id)
        self.look()
        back = {dump.header.dump_id for dump in self.mend()}
        going = {dump.header.dump_id for dump in dumps}
        return (
            [dump for dump in dropped if dump.header.dump_id not in back],
            [each for each in spared.values() if each.dump.header.dump_id in going],
        )


def _is_named_so(dump: StoredDump) -> bool:
    """Whether the file is one that can hold this dump: a catalog that was tampered with must not lead to another's file."""
    name = parse_name(dump.file)
    return name is not None and name.dump_id == dump.header.dump_id


def _why(error: VoltoolError) -> str:
    return error.why if isinstance(error, RefusedError) and error.why else str(error)
