"""The end of a lazy move: a short lock, the fold, and the plain tree takes the place of the overlay. Ships to servers.

Up to the fold everything is undone by unlocking: who writes too long is waited for another time. From the fold on it only goes
forward (see `folding`): the lock stays, whoever dies, and the next run goes on. The tree's root bears a mark with the move's id
when it is whole: where the mark is seen at the path, the exchange has been done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import stat
import syslog
import time
from typing import Iterator, Optional

from voltool import durable
from voltool.agent.bases import MOVE_LEVEL, Base, BaseBook
from voltool.agent.guardian import LockLease, start_guardian
from voltool.agent.lazymove import folding, overlay
from voltool.agent.lazymove.home import LazyHome
from voltool.agent.lazymove.upper import OURS, attribute, walk
from voltool.beneath import opened_directory
from voltool.errors import BusyError, HostError
from voltool.leases import ignore_lease_breaks, lease_test
from voltool.model import TargetMove
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.hooks import hook_of, run_hook
from voltool.volumes.lock import mounting
from voltool.volumes.lock.book import LockBook, LockRecord
from voltool.volumes.lock.hold import (
    LockWish,
    in_private_namespace,
    is_in_force,
    leave_read_only,
    lock_tree,
    new_token,
    unlock_tree,
)  # fmt: skip
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.records import VolumeHome
from voltool.volumes.registry import detect
from voltool.volumes.removal import remove_tree
from voltool.volumes.traits import synchronize

_WHOLE = OURS + "whole"
#: How long the lock may last before somebody speaks of it, seconds.
_LONGEST = 3600
#: So often it is looked whether a file is still open for writing, and how long apart, seconds.
_LOOKS, _PAUSE = 20, 0.05
_OPEN_QUIET = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME


class Ending:
    """Ends the lazy move of ``home``; everything has come and stands at ``next``."""

    def __init__(self, home: LazyHome) -> None:
        self._home = home
        self._book = LockBook(home.host.directory, home.move.uuid)

    def is_exchanged(self) -> bool:
        """Whether the plain tree is what stands at the path."""
        return _has_mark(self._home.layers.path, self._home.move.move_id)

    def has_begun(self) -> bool:
        """Whether there is only forward: nobody may write before `run` is through."""
        return self.is_exchanged() or folding.has_begun(self._home.folded)

    def run(self) -> None:
        """All of it, or nothing: BusyError with who writes, or works on the volume; then it is to be tried again. After any
        other failure too: what has begun goes on. Repeatable."""
        volume = records.open_home(self._home.host.directory, self._home.move.uuid, b"")
        with volume.lock("the end of a lazy move"):
            if not self.is_exchanged():
                self._bring(volume)
            self._settle(volume)

    def _bring(self, volume: VolumeHome) -> None:
        if overlay.is_mounted(self._home.layers.path) or not folding.has_begun(self._home.folded):
            with self._locked(volume):
                self._fold_and_exchange()
        else:
            unlock_tree(self._book)  # of before the host was started anew: nothing is mounted, so nobody writes
            self._fold_and_exchange()

    @contextlib.contextmanager
    def _locked(self, volume: VolumeHome) -> Iterator[None]:
        """Under our lock; one that an earlier run has left from after the fold began is taken for ours."""
        record = self._book.read()
        if record is not None and is_in_force(record) and folding.has_begun(self._home.folded):
            yield
            return
        lease = self._lock(volume)
        try:
            yield
        except BaseException:
            if not folding.has_begun(self._home.folded):
                unlock_tree(self._book)
                self._after_unlock()
            raise
        finally:
            lease.close()

    def _lock(self, volume: VolumeHome) -> LockLease:
        wishes = self._home.wishes()
        if not wishes.hooks.before_lock:
            self._refuse_open_files()
        token = new_token()
        lease = start_guardian(self._book, token, silence=float(_LONGEST), ward=_Ward(self))
        wish = LockWish(
            uuid=volume.record.uuid,
            name=volume.record.name,
            path=volume.record.path,
            owner="the end of a lazy move",
            seconds=_LONGEST,
            timeout=float(wishes.lock_timeout),
            files=lambda: _written_files(self._home.layers.upper),
            before_lock=hook_of(wishes.hooks, "before_lock"),
            after_unlock=hook_of(wishes.hooks, "after_unlock"),
            token=token,
        )
        try:
            lock_tree(self._book, wish, alive=lease.beat)
        except BaseException:
            lease.close()
            raise
        return lease

    def _refuse_open_files(self) -> None:
        """BusyError, before anything is locked, where a file stays open for writing, as those of a database do: without a hook
        that ends it the lock would only keep others from writing, again and again, while it waits in vain."""
        ignore_lease_breaks()
        for path in _written_files(self._home.layers.upper):
            place = os.path.join(self._home.layers.path, path)
            if _stays_open(place):
                raise BusyError(
                    "a file of the volume is open for writing",
                    where=shown(place),
                    remedy="it goes on by itself when the file is closed; a before_lock hook stops who has it open",
                )

    def _fold_and_exchange(self) -> None:
        home = self._home
        synchronize(home.layers.upper)
        folding.fold(home.folded)
        folding.finish(home.folded, home.place.next)
        with opened_directory(home.place.next) as root:
            os.setxattr(root, _WHOLE, home.move.move_id.encode())
        synchronize(home.place.next)
        path, other = home.layers.path, home.place.next
        with self._book.step("the end of a lazy move"):
            record = self._book.read()
            if record is not None:
                self._book.write(dataclasses.replace(record, moved_to=other))
            failure = in_private_namespace(lambda: _exchange(home.move, path, other))
        if failure:
            raise HostError("the whole tree cannot take its place", where=shown(path), why=failure)

    def _settle(self, volume: VolumeHome) -> None:
        """The tree is in its place: what was there before goes, the records follow. Repeatable."""
        home = self._home
        record = self._book.read()
        if record is not None:
            self._after_unlock(record)
        with self._book.step("the end of a lazy move"):
            leave_read_only(self._book)
        while mounting.mounts_at(home.place.next):
            mounting.detach(home.place.next)
        home.clear()
        folding.seal_root(home.folded, home.layers.path)
        self._keep_states(volume)
        volume.save(
            dataclasses.replace(records.read_record(volume.area) or volume.record, driver=detect(home.layers.path))
        )
        folding.forget(home.folded)
        if os.path.lexists(home.place.next):
            with contextlib.suppress(OSError):
                placeholder.unseal(home.place.next)
            remove_tree(home.place.next)
        move = home.current()
        if move is not None:
            MoveBook(home.host.directory).save_target(dataclasses.replace(move, lazy=False))
        with opened_directory(home.layers.path) as root, contextlib.suppress(OSError):
            os.removexattr(root, _WHOLE)

    def _after_unlock(self, record: Optional[LockRecord] = None) -> None:
        """What the hook says of a failure is told, and no reason not to go on."""
        move = self._home.move
        hook = record.after_unlock if record is not None else hook_of(self._home.wishes().hooks, "after_unlock")
        try:
            run_hook(hook, "after_unlock", move.name, move.path)
        except HostError as error:
            syslog.syslog(syslog.LOG_ERR, f"{move.name}: {error}")

    def _keep_states(self, volume: VolumeHome) -> None:
        """The manifest and its stamps are the base of the volume's next dump, unless it has been dumped since."""
        kept = self._home.place.states
        if not os.path.isdir(kept):
            return
        if BaseBook(volume.area).newest() is None:
            shutil.rmtree(os.path.join(volume.area, b"states"), ignore_errors=True)
            os.rename(kept, os.path.join(volume.area, b"states"))
            durable.fsync_directory(volume.area)
            BaseBook(volume.area).begin_with(Base(self._home.move.state_id, self._home.move.move_id, "", MOVE_LEVEL))
        else:
            remove_tree(kept)


class _Ward:
    """See `agent.guardian.Ward`."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending

    def is_given_up(self) -> bool:
        """After the fold has begun the lock stays, until the next run is through: the volume is between two trees."""
        if self._ending.has_begun():
            raise HostError(
                "what was written in a lazy move is being folded in: the volume stays read-only until that is done"
            )
        return False

    def recover(self) -> None:
        """There is nothing."""


def _has_mark(path: bytes, move_id: str) -> bool:
    with contextlib.suppress(OSError):
        return attribute(path, _WHOLE) == move_id.encode()
    return False


def _stays_open(path: bytes) -> bool:
    """Whether the file is open for writing, not just for a moment."""
    for _attempt in range(_LOOKS):
        try:
            descriptor = os.open(path, _OPEN_QUIET)
        except OSError:
            return False
        try:
            if lease_test(descriptor) is not False:
                return False
        finally:
            os.close(descriptor)
        time.sleep(_PAUSE)
    return True


def _written_files(upper: bytes) -> Iterator[bytes]:
    """Only these can be open for writing."""
    with opened_directory(upper) as root:
        for entry in walk(root, in_use=True):
            if stat.S_ISREG(entry.status.st_mode) and not entry.is_whiteout:
                yield entry.path


def _exchange(move: TargetMove, path: bytes, other: bytes) -> None:
    """In a mount namespace of its own: the mounts at ``path`` follow what they are on to ``other``, for everybody else."""
    while mounting.mounts_at(path):
        mounting.detach(path)
    placeholder.let_go(move)
    durable.rename_with_flags(path, other, durable.RENAME_EXCHANGE)
    for directory in {os.path.dirname(path), os.path.dirname(other)}:
        durable.fsync_directory(directory)
