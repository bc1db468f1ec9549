"""The verb Examine: what on this host is not as its records say, and putting right what can be. Ships to servers.

Nothing that could be somebody's only copy is ever removed: a fix ends locks that nobody holds, drops what interrupted dumps and
restores left, and forgets notes about what is gone. The rest is told, with the command that helps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from typing import Callable, Iterator, List

from voltool import durable
from voltool.agent.bases import BaseBook
from voltool.agent.clones import is_replicas, is_users
from voltool.agent.host import HostState
from voltool.agent.lazy.examining import troubles
from voltool.agent.lazymove.fill import status_of
from voltool.agent.lazymove.home import LazyHome
from voltool.agent.replica import guard
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.replica.splitting import SPLIT_OWNER, is_closed, keep_closed
from voltool.agent.replica.status import faults_of, protection_missing
from voltool.errors import BusyError, VoltoolError
from voltool.model import COPYING, PUBLISHED, RETIRED, ReplicaRecord, SourceMove, TargetMove
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.heard import read_heard
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import end_lock, is_in_force
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.records import VolumeHome
from voltool.volumes.registry import driver_named
from voltool.volumes.removal import remove_tree
from voltool.volumes.splits import read_split
from voltool.wire import messages
from voltool.wire.conversation import Conversation

#: A guardian is given so long beyond the end of its lock (seconds).
_GRACE = 60
#: An interrupted restore may still be gone on with; after this nobody will (seconds).
_STALE_STAGING = 7 * 86_400
_STAGING = b"staging-"
#: How many paths a finding names.
_NAMED = 5


def examine(request: messages.Examine, conversation: Conversation, host: HostState) -> messages.ExamineReply:
    """Handle `Examine`. Idempotent."""
    del conversation
    doctor = _Doctor(host, fix=request.fix)
    return messages.ExamineReply(tuple(doctor.findings()))


class _Doctor:
    """One examination."""

    def __init__(self, host: HostState, *, fix: bool) -> None:
        self._host = host
        self._fix = fix
        self._book = MoveBook(host.directory)

    def findings(self) -> Iterator[messages.Finding]:
        """All of them."""
        moving = {move.uuid for move in self._book.sources() if move.phase != RETIRED}
        for entry in records.list_entries(self._host.directory):
            yield from self._lock(entry.uuid)
            if entry.forgotten or entry.uuid in moving:
                continue
            try:
                home = records.open_home(self._host.directory, entry.uuid, entry.path, split=True)
            except VoltoolError as error:
                yield messages.Finding("volume", "", shown(entry.path), error.what, error.remedy)
            else:
                yield from self._split(home)
                yield from self._heard(home)
                yield from self._clones(home)
        for move in (*self._book.sources(), *self._book.archived()):
            yield from self._leaving(move)
        for arriving in self._book.targets():
            yield from self._arriving(arriving)
        for replica in ReplicaBook(self._host.directory).replicas():
            yield from self._replica(replica)
        yield from self._processes()
        yield from self._places()

    def _lock(self, uuid: str) -> Iterator[messages.Finding]:
        book = LockBook(self._host.directory, uuid)
        record = book.read()
        if record is None:
            return
        if record.owner == SPLIT_OWNER and not is_in_force(record):
            return  # told with the split
        if not is_in_force(record):
            what = "a lock from before the host was started anew is still on record"
        elif record.until + _GRACE < time.time():
            what = "a lock is over, and its guardian has not undone it"
        else:
            return
        finding = messages.Finding(
            "lock", record.name, shown(record.path), what, f"voltool unlock {record.name}", fixable=True
        )
        yield self._fixed(finding, lambda: end_lock(book, record.token))

    def _heard(self, home: VolumeHome) -> Iterator[messages.Finding]:
        heard = read_heard(home.area, home.record)
        if heard is not None:
            place = f"{heard.home.host}:{shown(heard.home.path)}"
            what = f"{place} has taken the volume's place; this home has heard of it, could not retire yet, and can be written to"
            remedy = f"voltool replica list {home.record.name} tries again; who writes here has to stop"
            yield messages.Finding("replaced", home.record.name, shown(home.record.path), what, remedy)

    def _split(self, home: VolumeHome) -> Iterator[messages.Finding]:
        split = read_split(home.area, home.record)
        if split is None:
            return
        place = f"{split.home.host}:{shown(split.home.path)}"
        what = f"split: epoch {split.mine.number} is here and, another one, at {place}; both are read-only until you choose"
        closed = is_closed(LockBook(self._host.directory, home.record.uuid))
        if not closed:
            what = (
                f"split: epoch {split.mine.number} is here and, another one, at {place}; and here it can be written to"
            )
        remedy = f"look at both, then voltool replica promote {home.record.name} HOST --force for the one to keep"
        finding = messages.Finding("split", home.record.name, shown(home.record.path), what, remedy)
        if self._fix and not closed:
            try:
                with home.lock("doctor"):
                    keep_closed(self._host, home)
            except VoltoolError as error:
                finding = dataclasses.replace(finding, what=f"{what}; it cannot be made read-only: {error}")
        yield finding

    def _clones(self, home: VolumeHome) -> Iterator[messages.Finding]:
        driver = driver_named(home.record.driver)
        kept = BaseBook(home.area).labels()
        try:
            lock = home.lock("doctor")
            lock.acquire()
        except BusyError:
            return  # whoever works there needs them
        try:
            for clone in driver.clones(home.record):
                if clone.label in kept or is_users(clone) or is_replicas(clone):
                    continue
                finding = messages.Finding(
                    "clone",
                    home.record.name,
                    shown(clone.path),
                    "a clone that an interrupted dump left",
                    "the next dump of the volume drops it",
                    fixable=True,
                )
                yield self._fixed(finding, functools.partial(driver.drop, home.record, clone))
        finally:
            lock.release()

    def _leaving(self, move: SourceMove) -> Iterator[messages.Finding]:
        place = f"{move.target.host}:{shown(move.target.path)}"
        if move.promoted:
            yield from self._replaced(move, place)
            return
        if move.phase == RETIRED:
            return
        what = f"a move to {place} is not complete ({move.phase})"
        command = f"voltool move --resume {move.name}"
        if move.phase == COPYING:
            command += f", or voltool move --abort {move.name}"
        else:
            what += ": the volume may be in service nowhere"
        yield messages.Finding("move", move.name, shown(move.path), what, command)

    def _replaced(self, move: SourceMove, place: str) -> Iterator[messages.Finding]:
        """A home that stepped down for a promoted replica: what only it has is told until it is purged."""
        look = f"look at it, take what is wanted to {place}, then voltool retired purge {move.name} HOST"
        if move.phase != RETIRED:
            what = f"{place} has taken the volume's place, and what was written here is not told yet"
            yield messages.Finding("replaced", move.name, shown(move.path), what, f"voltool replica list {move.name}")
        elif move.aside_count and os.path.isdir(move.retired_path):
            few = ", ".join(shown(path) for path in move.aside[:_NAMED])
            more = f", {few}{' and others' if move.aside_count > _NAMED else ''}" if few else ""
            count = f"{move.aside_count} paths were" if move.aside_count > 0 else "nobody knows what was"
            what = f"{count} written here after the state that was promoted to {place}, and in this copy alone{more}"
            yield messages.Finding("aside", move.name, shown(move.retired_path), what, look)

    def _arriving(self, move: TargetMove) -> Iterator[messages.Finding]:
        if move.phase != PUBLISHED:
            place = f"{move.source.host}:{shown(move.source.path)}"
            what = f"a move from {place} is not complete ({move.phase})"
            remedy = f"voltool move --resume {move.name}, or voltool move --abort {move.name}"
            yield messages.Finding("move", move.name, shown(move.path), what, remedy)
        elif move.lazy:
            for fault in status_of(LazyHome(self._host, move), 0).faults:
                what = f"its files are still to come from {move.source.host}: {fault}"
                yield messages.Finding("move", move.name, shown(move.path), what, f"voltool move --resume {move.name}")

    def _replica(self, record: ReplicaRecord) -> Iterator[messages.Finding]:
        sync = f"voltool replica sync {record.name} HOST"
        missing = protection_missing(record)
        for fault in faults_of(record):
            finding = messages.Finding(
                "replica", record.name, shown(record.path), fault, sync, fixable=fault == missing
            )
            yield self._fixed(finding, lambda: guard.protect(record.path))

    def _processes(self) -> Iterator[messages.Finding]:
        for trouble in troubles(self._host):
            remedy = f"voltool replica sync {trouble.name or 'NAME'}"
            finding = messages.Finding("process", trouble.name, "", trouble.what, remedy, fixable=True)
            yield self._fixed(finding, trouble.mend)

    def _places(self) -> Iterator[messages.Finding]:
        wanted = any(move.phase != PUBLISHED for move in self._book.targets())
        for place in records.remembered_areas(self._host.directory):
            if not os.path.basename(place).startswith(_STAGING):
                continue
            if not os.path.lexists(place):
                finding = messages.Finding(
                    "note", "", shown(place), "a note about staging that is gone", "nothing", fixable=True
                )
                yield self._fixed(finding, functools.partial(records.forget_area, self._host.directory, place))
            elif not wanted:  # what a move needs is told with the move
                yield from self._staging(place)

    def _staging(self, place: bytes) -> Iterator[messages.Finding]:
        age = time.time() - max(os.lstat(place).st_mtime, _newest(place))  # before the lock's file is written to
        lock = durable.FileLock(os.path.join(place, b"lock"), what=shown(place), owner="voltool doctor")
        try:
            lock.acquire()
        except (BusyError, OSError):
            return
        try:
            old = age > _STALE_STAGING
            finding = messages.Finding(
                "staging",
                "",
                shown(place),
                f"an interrupted restore left what had arrived, {age / 86_400:.1f} days ago",
                "the same restore goes on from it; after a week --fix removes it",
                fixable=old,
            )
            yield self._fixed(finding, lambda: self._remove(place))
        finally:
            lock.release()

    def _remove(self, place: bytes) -> None:
        remove_tree(place)
        records.forget_area(self._host.directory, place)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(place))

    def _fixed(self, finding: messages.Finding, act: Callable[[], object]) -> messages.Finding:
        """The finding, put right where that is wished and can be."""
        if not self._fix or not finding.fixable:
            return finding
        try:
            act()
        except (VoltoolError, OSError) as error:
            return dataclasses.replace(finding, what=f"{finding.what}; it cannot be put right: {error}")
        return dataclasses.replace(finding, fixed=True)


def _newest(place: bytes) -> float:
    times: List[float] = [os.lstat(os.path.join(place, name)).st_mtime for name in os.listdir(place)]
    return max(times, default=0.0)
