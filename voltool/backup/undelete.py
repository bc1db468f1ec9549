"""Brings dumps back from the bins of stores, with what they rest on."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

from voltool.backup.discover import read_dump
from voltool.backup.marks import note_undeleted
from voltool.backup.ports import World
from voltool.backup.shelf import Discarded, Shelf, bin_of
from voltool.errors import IntegrityError, NotFoundError, VoltoolError
from voltool.events import Notice
from voltool.model import StoredDump
from voltool.stores.contract import Store

_HEX = re.compile(r"[0-9a-f]{1,32}")


@dataclass(frozen=True)
class Undeleted:
    """``dump`` was brought back, and with it ``bases``."""

    dump: StoredDump
    bases: tuple[StoredDump, ...]


def discarded_dumps(world: World, urls: Iterable[str]) -> list[Discarded]:
    """What lies in the bins of the stores, by file name."""
    found: list[Discarded] = []
    for url in dict.fromkeys(urls):
        try:
            found += bin_of(world.stores.open(url))
        except VoltoolError as error:
            world.reporter.report(Notice("warning", f"the bin of {url} cannot be looked at: {error.why or error.what}"))
    return sorted(found, key=lambda each: (each.file, each.store))


def undelete(world: World, urls: Iterable[str], word: str) -> Undeleted:
    """Bring back the discarded dump whose id begins with ``word``, and the discarded dumps that it rests on.

    Repeatable: cut off in between, the bases come back with the next prune. Raises NotFoundError (none, several), RefusedError
    where a file of its name is there, IntegrityError where it turns out to be no dump (it stays where it was brought).
    """
    chosen = _choose(discarded_dumps(world, urls), word)
    store = world.stores.open(chosen.store)
    store.recover(chosen.file)
    dump = _read(world, store, chosen)
    try:
        world.catalog.add_dump(dump)
    except VoltoolError as error:
        world.reporter.report(Notice("warning", f"it is back, and the catalog will learn of it later: {error.what}"))
    known = [*world.catalog.dumps(dump.header.volume_uuid), dump]
    bases = Shelf(world, store, dump.header.volume_uuid, known).mend()
    try:
        note_undeleted(store, tuple(each.header.dump_id for each in (dump, *bases)), time.time_ns())
    except VoltoolError as error:
        message = f"it is back, but the next prune may drop it again: {error.what}: {error.why}"
        world.reporter.report(Notice("warning", message))
    return Undeleted(dump, bases)


def _choose(found: list[Discarded], word: str) -> Discarded:
    prefix = word.lower()
    fitting = [each for each in found if _HEX.fullmatch(prefix) and each.name.dump_id.startswith(prefix)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        why = ", ".join(f"{each.name.dump_id} ({each.name.volume}, {each.store})" for each in fitting[:8])
        raise NotFoundError(f"{word} is the beginning of several discarded dumps' ids", why=why, remedy="more digits")
    raise NotFoundError(
        f"no discarded dump's id begins with {word!a}",
        remedy="voltool dumps --deleted, to see which there are; what was purged is gone for good",
    )


def _read(world: World, store: Store, chosen: Discarded) -> StoredDump:
    file = next((file for file in store.list(chosen.file) if file.name == chosen.file), None)
    dump = read_dump(world, store, file) if file is not None else None
    if dump is None:
        raise IntegrityError(
            "the file is back, but it is no sound dump",
            where=f"{chosen.store}/{chosen.file}",
            remedy="another copy of this dump",
        )
    return dump
