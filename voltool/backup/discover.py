"""Dumps that lie in a store and that the catalog does not know: it is never the only place of a fact.

Reads the names of a store's files, and of those it does not know the header and trailer. The catalog learns them. Directories
that have not changed since they were listed are not listed again, unless they are asked for by name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence

from voltool.backup.ports import World
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError, NotFoundError, UsageError, VoltoolError
from voltool.events import Notice
from voltool.model import KnownVolume, StoredDump
from voltool.policy.chain import Lineage
from voltool.stores.contract import Store, StoredFile
from voltool.stores.naming import parse_name

#: A directory that changed less than this (ns) before it was listed is listed again next time: some file systems keep whole
#: seconds, so that a file may have appeared after the listing without a trace.
_SETTLED = 2_000_000_000
#: How many ids a notice names.
_NAMED = 20


def known_dumps(world: World, urls: Sequence[str]) -> list[StoredDump]:
    """All dumps of the catalog and of the stores ``urls``, oldest first; see `learn`. Slow where there are very many."""
    away = learn(world, urls)
    return [dump for dump in world.catalog.dumps() if dump.store not in away]


def volume_dumps(world: World, urls: Sequence[str], volume: KnownVolume) -> list[StoredDump]:
    """The dumps of one volume, oldest first. Looks for them where they should be, and, where there are none or a base is missing,
    everywhere."""
    found = _dumps_of(world, urls, volume.uuid, [volume.name])
    if _is_whole(found):
        return found
    away = learn(world, urls)
    return [dump for dump in world.catalog.dumps(volume.uuid) if dump.store not in away]


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
    away = learn(world, urls)
    found = [dump for uuid in _uuids_meant(world, word) for dump in world.catalog.dumps(uuid)]
    return [dump for dump in found if dump.store not in away]


def _uuids_meant(world: World, word: str) -> list[str]:
    dumps = world.catalog.dumps_named(word) or world.catalog.dumps_by_prefix(word.lower(), _NAMED)
    return list(dict.fromkeys(dump.header.volume_uuid for dump in dumps))


def _is_whole(dumps: Sequence[StoredDump]) -> bool:
    """Whether there are dumps, and all is known that they rest on."""
    lineage = Lineage(dumps)
    return bool(dumps) and all(lineage.is_whole(dump) for dump in dumps)


def learn(world: World, urls: Sequence[str], names: Collection[str] | None = None) -> frozenset[str]:
    """Bring the catalog up to date with the stores ``urls`` and with those of all known dumps.

    ``names``: look only into these directories (in ``urls`` alone), else into all that have changed. A dump that the catalog
    remembers and its store has no more is forgotten, with one notice, where the store has others; an empty store may only not be
    mounted: then the catalog keeps its dumps, and its URL is in the answer, for they are not there now. A file without a sound
    header and trailer is no dump: a notice names it.
    """
    away = set()
    for url in dict.fromkeys(urls) if names is not None else _and_known(world, urls):
        try:
            look = _Look(world, world.stores.open(url))
            look.at(sorted(set(names)) if names is not None else None)
        except UsageError:
            raise
        except VoltoolError as error:
            world.reporter.report(Notice("warning", f"the store {url} cannot be looked at: {error.why or error.what}"))
            continue
        if look.is_away:
            away.add(url)
    return frozenset(away)


def _and_known(world: World, urls: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*urls, *world.catalog.stores_of()]))


def _dumps_of(world: World, urls: Sequence[str], uuid: str, names: Iterable[str]) -> list[StoredDump]:
    directories = {*names, *(dump.file.partition("/")[0] for dump in world.catalog.dumps(uuid))}
    away = learn(world, list(dict.fromkeys([*urls, *world.catalog.stores_of(uuid)])), directories)
    return [dump for dump in world.catalog.dumps(uuid) if dump.store not in away]


class _Look:
    """One look at one store."""

    def __init__(self, world: World, store: Store) -> None:
        self._world = world
        self._catalog = world.catalog
        self._store = store
        self._gone: dict[str, str] = {}  # ids of dumps whose file is missing, and that file
        self._copies: dict[str, StoredFile] = {}  # of dumps that are known at another place
        self._has_dumps = False
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
        for name in names:
            mtime_ns = found.get(name, now)
            settled = self._directory(name) and mtime_ns < now - _SETTLED
            if listed.get(name) != (mtime_ns if settled else None):
                marks[name] = mtime_ns if settled else None
        self._forget_what_is_gone()
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
        """Read a dump's header and trailer and remember it; False where it is none."""
        where = f"{self._store.url}/{file.name}"
        try:
            source = self._store.open(file.name)
        except NotFoundError:
            return False
        try:
            reader = DumpReader(source, where)
        except IntegrityError as error:
            notice = Notice("warning", f"{where} is passed over: {error.what}: {error.why}")
            self._world.reporter.report(notice)
            return False
        finally:
            source.close()
        self._catalog.add_dump(StoredDump(reader.header, reader.totals, self._store.url, file.name))
        return True

    def _forget_what_is_gone(self) -> None:
        if not self._gone:
            return
        place = os.fsdecode(self._store.path_on_this_host() or os.fsencode(self._store.url))
        self.is_away = not self._has_dumps and not any(parse_name(file.name) for file in self._store.list())
        number = len(self._gone)
        if self.is_away:
            which = "a dump that is" if number == 1 else f"{number} dumps that are"
            message = f"the catalog remembers {which} not in {place!a} any more (is it mounted?)"
        else:
            for dump_id in self._gone:
                self._catalog.remove_dump(dump_id)
                if dump_id in self._copies:  # not gone, but moved
                    self._learn(self._copies[dump_id])
            ids = ", ".join(dump_id[:12] for dump_id in list(self._gone)[:_NAMED])
            more = f" and {number - _NAMED} more" if number > _NAMED else ""
            message = f"no longer in {place!a}, and forgotten: {'dump' if number == 1 else 'dumps'} {ids}{more}"
        self._world.reporter.report(Notice("warning", message))
