"""Dumps that lie in a store and that the catalog does not know: it is never the only place of a fact.

Reads the names of a store's files, and of those it does not know the header and trailer. The catalog learns them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from voltool.backup.ports import World
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError, NotFoundError, SpaceError, VoltoolError
from voltool.events import Notice
from voltool.model import StoredDump
from voltool.showing import shown
from voltool.stores.contract import Store, StoredFile
from voltool.stores.naming import parse_name


def known_dumps(world: World, urls: Sequence[str]) -> list[StoredDump]:
    """The dumps of the catalog and of the stores ``urls``, oldest first; what was not known is remembered.

    A dump that the catalog remembers and its store has no more is forgotten, with one notice, where the store has others (with
    none, where it lies in the store's bin: somebody dropped it); an empty store may only not be mounted: then it is left out
    and stays in the catalog. A file without a sound header and trailer is no dump: a notice names it. A catalog that cannot
    be written to, as on a full disk, keeps nobody from reading.
    """
    remembered = world.catalog.dumps()
    stores = list(dict.fromkeys([*urls, *(dump.store for dump in remembered)]))
    present: dict[str, set[str]] = {}
    known = {dump.header.dump_id for dump in remembered}
    learned: list[StoredDump] = []
    for url in stores:
        store = world.stores.open(url)
        try:
            files = list(store.list())
        except VoltoolError as error:
            world.reporter.report(Notice("warning", f"the store {url} cannot be looked at: {error.why or error.what}"))
            continue
        present[url] = {file.name for file in files}
        for file in files:
            name = parse_name(file.name)
            if name is None or name.dump_id in known:
                continue
            dump = read_dump(world, store, file)
            if dump is not None:
                known.add(name.dump_id)
                learned.append(dump)
    return _without_missing(world, _remembering(world, learned) if learned else remembered, present, known)


def _remembering(world: World, learned: Sequence[StoredDump]) -> list[StoredDump]:
    """All dumps, now that the catalog knows the ``learned`` ones too, if it can."""
    try:
        for dump in learned:
            world.catalog.add_dump(dump)
    except SpaceError as error:
        world.reporter.report(Notice("warning", f"the catalog remembers nothing new: {error.what} ({error.where})"))
    dumps = world.catalog.dumps()
    ids = {dump.header.dump_id for dump in dumps}
    return dumps + [dump for dump in learned if dump.header.dump_id not in ids]


def read_dump(world: World, store: Store, file: StoredFile) -> StoredDump | None:
    """The dump in ``file``; None, with a notice, where it is none, or not the one that its name says."""
    where = f"{store.url}/{file.name}"
    try:
        source = store.open(file.name)
    except NotFoundError:
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
    return StoredDump(header=reader.header, totals=reader.totals, store=store.url, file=file.name)


def _without_missing(
    world: World, dumps: Sequence[StoredDump], present: dict[str, set[str]], known: set[str]
) -> list[StoredDump]:
    """``known``: ids that were known when the stores were listed; of younger ones the listing says nothing."""
    there = []
    missing: dict[str, list[StoredDump]] = {}
    for dump in dumps:
        listed = dump.store in present and dump.header.dump_id in known
        if listed and dump.file not in present[dump.store]:
            missing.setdefault(dump.store, []).append(dump)
        else:
            there.append(dump)
    for url, all_gone in missing.items():
        gone = _not_dropped(world, url, all_gone) if present[url] else all_gone
        if not gone:
            continue
        place = os.fsdecode(world.stores.open(url).path_on_this_host() or os.fsencode(url))
        if present[url]:
            with contextlib.suppress(SpaceError):
                for dump in gone:
                    world.catalog.remove_dump(dump.header.dump_id)
            ids = ", ".join(dump.header.dump_id[:12] for dump in gone)
            message = f"no longer in {place!a}, and forgotten: {'dump' if len(gone) == 1 else 'dumps'} {ids}"
        else:
            which = "a dump that is" if len(gone) == 1 else f"{len(gone)} dumps that are"
            message = f"the catalog remembers {which} not in {place!a} any more (is it mounted?)"
        world.reporter.report(Notice("warning", message))
    return there


def _not_dropped(world: World, url: str, gone: Sequence[StoredDump]) -> list[StoredDump]:
    """Those that do not lie in the bin; the others are forgotten, for somebody dropped them."""
    with contextlib.suppress(VoltoolError):
        dropped = {file.name for file in world.stores.open(url).discarded()}
        for dump in gone:
            if dump.file in dropped:
                world.catalog.remove_dump(dump.header.dump_id)
        return [dump for dump in gone if dump.file not in dropped]
    return list(gone)
