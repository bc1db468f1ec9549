"""Making a lock true: closing the tree's mounts, and waiting until nobody can write any more. Ships to servers.

Knows the lock's record, not its mounts over the volume's path (`hold`).
"""

from __future__ import annotations

import dataclasses
import time
from typing import Callable, FrozenSet

from voltool.errors import BusyError
from voltool.showing import shown
from voltool.volumes.lock.book import LOCKING, LockBook, LockRecord
from voltool.volumes.lock.closing import Closer
from voltool.volumes.lock.search import Files, SearchResult, describe_writers, find_writers

_POLL = 0.2


def current_record(book: LockBook, record: LockRecord) -> LockRecord:
    """A lock's record as it is now; BusyError where the lock is being undone. The caller holds `LockBook.step`."""
    current = book.read()
    if current is None or current.token != record.token or current.phase != LOCKING:
        raise BusyError("the lock was undone while it was made", where=shown(record.path))
    return current


def write_closing(book: LockBook, record: LockRecord, closer: Closer) -> None:
    """Write down which mounts are to be closed. The caller holds `LockBook.step`."""
    current = current_record(book, record)
    closing, kept = closer.look()
    if closing or kept:
        closed = current.closed + tuple(closing)
        book.write(dataclasses.replace(current, closed=closed, kept=current.kept + tuple(kept)))


def close_mounts(book: LockBook, record: LockRecord, closer: Closer) -> None:
    """Close what was found, and from the second time on what has come since. BusyError where the lock was undone meanwhile."""
    with book.step(record.owner):
        if closer.attempted:
            write_closing(book, record, closer)
        closer.attempt()


def wait_for_writers(
    closer: Closer,
    files: Files,
    timeout: float,
    ignored: FrozenSet[int],
    close: Callable[[], None],
    alive: Callable[[], None],
) -> SearchResult:
    """Search until a search over all files finds nobody, for ``timeout`` seconds; ``close`` goes before each search.

    BusyError names who can still write. ``alive`` is called while it waits.
    """
    deadline = time.monotonic() + timeout
    close()
    result = find_writers(closer.tree, files(), ignored)
    while result.writers:
        alive()
        if time.monotonic() >= deadline:
            raise _busy(closer, result)
        time.sleep(_POLL)
        close()
        result = find_writers(closer.tree, result.busy, ignored)
        if not result.writers:
            result = find_writers(closer.tree, files(), ignored)
    return result


def _busy(closer: Closer, result: SearchResult) -> BusyError:
    return BusyError(
        "the volume cannot be locked: somebody can still write to it",
        where=shown(closer.tree.path),
        why=describe_writers(result.writers),
        remedy="stop them (a before_lock hook does it each time), or wait longer with --lock-timeout; the lock is undone",
    )
