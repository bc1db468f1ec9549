"""Dumps that lie in a store and that the catalog does not know: it is never the only place of a fact.

Reads the names of a store's files, and of those it does not know the header and trailer. The catalog learns them. Directories
that have not changed since they were listed are not listed again, unless they are asked for by name.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from voltool.backup.ports import World
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError, NotFoundError, SpaceError, UsageError, VoltoolError
from voltool.events import Notice
from voltool.model import KnownVolume, StoredDump
from voltool.policy.chain import Lineage
from voltool.showing import shown
from voltool.stores.contract import Store, StoredFile
from voltool.stores.naming import parse_name

#: A directory that changed less than this (ns) before it was listed is listed again next time: some file systems keep whole
#: seconds, so that a file may have appeared after the listing without a trace.
_SETTLED = 2_000_000_000
#: The same of a store on another machine, whose clock may go wrong by less than this.
_SETTLED_ELSEWHERE = 3600 * 1_000_000_000
#: How many ids a notice names.
_NAMED = 20


@dataclass(frozen=True)
class Seen:
    """What a look at stores showed that the catalog does not tell: ``away``, the stores that seem not to be mounted, whose dumps
    are not there now; ``unremembered``, dumps that the catalog could not take, as on a full disk: that keeps nobody from reading.
    """

    away: frozenset[str] = frozenset()
    unremembered: tuple[StoredDump, ...] = ()

    def there(self, dumps: Iterable[StoredDump], uuid: str | None = None) -> list[StoredDump]:
        """Those of the catalog's ``dumps`` (of the volume ``uuid``) that are there, and those it does not know."""
        more = [dump for dump in self.unremembered if uuid is None or dump.header.volume_uuid == uuid]
        return [dump for dump in dumps if dump.store not in self.away] + more


def known_dumps(world: World, urls: Sequence[str]) -> list[StoredDump]:
    """All dumps of the catalog and of the stores ``urls``, oldest first; see `learn`. Slow where there are very many."""
    return learn(world, urls).there(world.catalog.dumps())


def volume_dumps(world: World, urls: Sequence[str], volume: KnownVolume) -> list[StoredDump]:
    """The dumps of one volume, oldest first. Looks for them where they should be, and, where there are none or a base is missing,
    everywhere."""
    found = _dumps_of(world, urls, volume.uuid, [volume.name])
    if _is_whole(found):
        return found
    return learn(world, urls).there(world.catalog.dumps(volume.uuid), volume.uuid)


def dumps_meant(world: World, urls: Sequence[str], word: str) -> list[StoredDump]:
    """The dumps that a volume's name or the beginning of a dump's id can mean, each with all others of its volume.

    A name wins over an id, as in `select.choose_dump`.
    """
    for volume in world.catalog.volumes():
        if volume.name == word:
            return volume_dumps(world, urls, volume)
    learn(world, _and_known(world, urls), [word])
    found = [dump for uuid in _uuids_meant(world, word) for dump in _dumps_of(world, urls, uuid, [])]
    if _is_whole(found):
        return found
    seen = learn(world, urls)
    return seen.there(dump for uuid in _uuids_meant(world, word) for dump in world.catalog.dumps(uuid))


def _uuids_meant(world: World, word: str) -> list[str]:
    dumps = world.catalog.dumps_named(word) or world.catalog.dumps_by_prefix(word.lower(), _NAMED)
    return list(dict.fromkeys(dump.header.volume_uuid for dump in dumps))


def _is_whole(dumps: Sequence[StoredDump]) -> bool:
    """Whether there are dumps, and all is known that they rest on."""
    lineage = Lineage(dumps)
    return bool(dumps) and all(lineage.is_whole(dump) for dump in dumps)


def learn(world: World, urls: Sequence[str], names: Collection[str] | None = None) -> Seen:
    """Bring the catalog up to date with the stores ``urls`` and with those of all known dumps.

    ``names``: look only into these directories (in ``urls`` alone), else into all that have changed. A dump that the catalog
    remembers and its store has no more is forgotten, with one notice, where the store has others (with none, where it lies in the
    store's bin: somebody dropped it); an empty store may only not be mounted: then the catalog keeps its dumps. A file without a
    sound header and trailer is no dump: a notice names it.
    """
    away = set()
    unremembered: list[StoredDump] = []
    for url in dict.fromkeys(urls) if names is not None else _and_known(world, urls):
        try:
            look = _Look(world, world.stores.open(url))
            look.at(sorted(set(names)) if names is not None else None)
        except UsageError:
            raise
        except VoltoolError as error:
            world.reporter.report(Notice("warning", f"the store {url} cannot be looked at: {error.why or error.what}"))
            continue
        unremembered += look.unremembered
        if look.is_away:
            away.add(url)
    return Seen(frozenset(away), tuple(unremembered))


def read_dump(world: World, store: Store, file: StoredFile) -> StoredDump | None:
    """The dump in ``file``; None, with a notice, where it is none, or not the one that its name says."""
    where = f"{store.url}/{file.name}"
    try:
        source = store.open(file.name)
    except NotFoundError:
        return None
    except VoltoolError as error:
        world.reporter.report(Notice("warning", f"{where} is passed over: {error.what}: {error.why}"))
        return None
    try:
        reader = DumpReader(source, where)
    except IntegrityError as error:
        world.reporter.report(Notice("warning", f"{where} is passed over: {error.what}: {error.why}"))
        return None
    finally:
        source.close()
    name = parse_name(file.name)
    if name is None or name.dump_id != reader.header.dump_id:
        message = f"{where} is passed over: its header says that it is dump {shown(reader.header.dump_id.encode())}"
        world.reporter.report(Notice("warning", message))
        return None
    dump = StoredDump(header=reader.header, totals=reader.totals, store=store.url, file=file.name)
    if not _is_sane(dump):
        world.reporter.report(Notice("warning", f"{where} is passed over: what its header says is absurd"))
        return None
    return dump


def _is_sane(dump: StoredDump) -> bool:
    """Whether a catalog can take it: anybody may have written what lies in a store, and one file must not end each command."""
    header, totals = dump.header, dump.totals
    numbers = (
        header.sequence,
        header.clone_time_ns,
        header.epoch.number,
        totals.entries,
        totals.objects,
        totals.data_bytes,
    )
    texts: tuple[object, ...] = (  # as JSON has them, whatever the hints promise
        header.volume_uuid, header.volume_name, header.host, header.driver, header.boot_id, header.tool_version,
        header.machine_id, header.epoch.token, header.epoch.host, header.base_state_id or "", header.base_dump_id or "",
    )  # fmt: skip
    return all(-(1 << 63) <= number < 1 << 63 for number in numbers) and all(
        isinstance(text, str) and not any("\ud800" <= character <= "\udfff" for character in text) for text in texts
    )


def _and_known(world: World, urls: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*urls, *world.catalog.stores_of()]))


def _dumps_of(world: World, urls: Sequence[str], uuid: str, names: Iterable[str]) -> list[StoredDump]:
    directories = {*names, *(dump.file.partition("/")[0] for dump in world.catalog.dumps(uuid))}
    seen = learn(world, list(dict.fromkeys([*urls, *world.catalog.stores_of(uuid)])), directories)
    return seen.there(world.catalog.dumps(uuid), uuid)


class _Look:
    """One look at one store."""

    def __init__(self, world: World, store: Store) -> None:
        self._world = world
        self._catalog = world.catalog
        self._store = store
        self._gone: dict[str, str] = {}  # ids of dumps whose file is missing, and that file
        self._copies: dict[str, StoredFile] = {}  # of dumps that are known at another place
        self._has_dumps = False
        self.unremembered: list[StoredDump] = []
        #: The store is empty, though the catalog knows dumps in it.
        self.is_away = False

    def at(self, names: Sequence[str] | None) -> None:
        """Look into the directories ``names``, or into those that have changed."""
        now, url = time.time_ns(), self._store.url
        listed = self._catalog.listed(url)
        found = {directory.name: directory.mtime_ns for directory in self._store.directories()}
        if names is None:
            names = sorted({*found, *listed, *self._catalog.directories_of(url)})
            unchanged = {name for name in names if name in found and listed.get(name) == found[name]}
            self._has_dumps = bool(unchanged)  # they had some, or they would not be remembered
            names = [name for name in names if name not in unchanged]
        marks: dict[str, int | None] = {}
        margin = _SETTLED_ELSEWHERE if self._store.path_on_this_host() is None else _SETTLED
        for name in names:
            mtime_ns = found.get(name, now)
            settled = self._directory(name) and mtime_ns < now - margin
            if listed.get(name) != (mtime_ns if settled else None):
                marks[name] = mtime_ns if settled else None
        self._forget_what_is_gone()
        with contextlib.suppress(SpaceError):
            self._catalog.put_listed(url, marks)

    def _directory(self, name: str) -> bool:
        """Learn what is new there and note what is gone; whether all that lies there is known now, and something does."""
        known = self._catalog.files_in(self._store.url, name)  # first: what is published meanwhile is not missing
        present = {file.name: file for file in self._store.list(f"{name}/")}
        self._gone |= {known[file]: file for file in known.keys() - present.keys()}
        new = {}
        for file in present.keys() - known.keys():
            parsed = parse_name(file)
            if parsed is not None:
                new[parsed.dump_id] = present[file]
        elsewhere = self._catalog.known_ids(new)
        self._copies |= {dump_id: new[dump_id] for dump_id in elsewhere}
        is_sound = not elsewhere
        for dump_id in sorted(new.keys() - elsewhere, key=lambda dump_id: new[dump_id].name):
            is_sound &= self._learn(new[dump_id])
        has_dumps = bool(new) or len(known.keys() & present.keys()) > 0
        self._has_dumps |= has_dumps
        return is_sound and has_dumps

    def _learn(self, file: StoredFile) -> bool:
        """Remember a dump, if it is one; whether it is and could be."""
        dump = read_dump(self._world, self._store, file)
        if dump is None:
            return False
        try:
            self._catalog.add_dump(dump)
        except SpaceError as error:
            if not self.unremembered:
                message = f"the catalog remembers nothing new: {error.what} ({error.where})"
                self._world.reporter.report(Notice("warning", message))
            self.unremembered.append(dump)
            return False
        return True

    def _forget_what_is_gone(self) -> None:
        if not self._gone:
            return
        self.is_away = not self._has_dumps and not any(parse_name(file.name) for file in self._store.list())
        place = os.fsdecode(self._store.path_on_this_host() or os.fsencode(self._store.url))
        if self.is_away:
            which = "a dump that is" if len(self._gone) == 1 else f"{len(self._gone)} dumps that are"
            message = f"the catalog remembers {which} not in {place!a} any more (is it mounted?)"
            self._world.reporter.report(Notice("warning", message))
            return
        unexpected = self._not_dropped()
        for dump_id in self._gone:
            with contextlib.suppress(SpaceError):
                self._catalog.remove_dump(dump_id)
            if dump_id in self._copies:  # not gone, but moved
                self._learn(self._copies[dump_id])
        if unexpected:
            ids = ", ".join(dump_id[:12] for dump_id in unexpected[:_NAMED])
            more = f" and {len(unexpected) - _NAMED} more" if len(unexpected) > _NAMED else ""
            which = "dump" if len(unexpected) == 1 else "dumps"
            message = f"no longer in {place!a}, and forgotten: {which} {ids}{more}"
            self._world.reporter.report(Notice("warning", message))

    def _not_dropped(self) -> list[str]:
        """The ids of those that are gone and do not lie in the bin: nobody dropped them."""
        with contextlib.suppress(VoltoolError):
            directories = {file.partition("/")[0] for file in self._gone.values()}
            dropped = {file.name for name in directories for file in self._store.discarded(f"{name}/")}
            return [dump_id for dump_id, file in self._gone.items() if file not in dropped]
        return list(self._gone)
