"""Dumps that lie in a store and that the catalog does not know: it is never the only place of a fact.

Reads the names of a store's files, and of those it does not know the header and trailer. The catalog learns them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from voltool.backup.ports import World
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError, NotFoundError, VoltoolError
from voltool.events import Notice
from voltool.model import StoredDump
from voltool.stores.contract import Store, StoredFile
from voltool.stores.naming import parse_name


def known_dumps(world: World, urls: Sequence[str]) -> list[StoredDump]:
    """The dumps of the catalog and of the stores ``urls``, oldest first; what was not known is remembered.

    A dump that the catalog remembers and its store has no more is forgotten, with one notice, where the store has others;
    an empty store may only not be mounted: then it is left out and stays in the catalog. A file without a sound header
    and trailer is no dump: a notice names it.
    """
    remembered = world.catalog.dumps()
    stores = list(dict.fromkeys([*urls, *(dump.store for dump in remembered)]))
    present: dict[str, set[str]] = {}
    known = {dump.header.dump_id for dump in remembered}
    learned = False
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
                world.catalog.add_dump(dump)
                known.add(name.dump_id)
                learned = True
    return _without_missing(world, world.catalog.dumps() if learned else remembered, present, known)


def read_dump(world: World, store: Store, file: StoredFile) -> StoredDump | None:
    """What the dump in a store's file says of itself; None, with a notice, where it is none, or gone by now."""
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
    for url, gone in missing.items():
        place = os.fsdecode(world.stores.open(url).path_on_this_host() or os.fsencode(url))
        if present[url]:
            for dump in gone:
                world.catalog.remove_dump(dump.header.dump_id)
            ids = ", ".join(dump.header.dump_id[:12] for dump in gone)
            message = f"no longer in {place!a}, and forgotten: {'dump' if len(gone) == 1 else 'dumps'} {ids}"
        else:
            which = "a dump that is" if len(gone) == 1 else f"{len(gone)} dumps that are"
            message = f"the catalog remembers {which} not in {place!a} any more (is it mounted?)"
        world.reporter.report(Notice("warning", message))
    return there
