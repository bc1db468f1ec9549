"""One replica on its host: what is held, how it comes into being, how it is swapped in. Ships to servers.

The caller holds the replica's lock. What is served is touched by the swap alone (`journal`); everything else happens to the tree
that is made beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from typing import Iterator, List, Optional

from voltool import durable, inodes
from voltool.agent.host import HostState
from voltool.agent.lazy.mounted import clear_dead_mounts
from voltool.agent.replica import guard, journal
from voltool.agent.replica.journal import Journal, Swap
from voltool.agent.replica.making import has_copies, stage_next, take_apart_for_increment
from voltool.agent.replica.place import ReplicaPlace, place_of, staging_key
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.replica.rescan import rescan
from voltool.agent.replica.served import Served, ServedTree
from voltool.beneath import opened_directory
from voltool.dumpfile import format as fmt
from voltool.errors import HostError, IntegrityError, RefusedError, SpaceError
from voltool.model import FILLING, LAZY, LAZY_HOME, ROOT_OBJECT, SERVING, ReplicaRecord
from voltool.showing import shown
from voltool.tree.apply.arrival import salvage
from voltool.tree.apply.attributes import SEALS, Attributes, record_times
from voltool.tree.apply.files import translate
from voltool.tree.apply.held import HeldRecord, HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.ready import make_ready, publish_ready
from voltool.tree.apply.staging import (
    Staging,
    StagingKey,
    Way,
    load_progress,
    open_inside,
    open_staging,
    staging_path,
)
from voltool.tree.apply.waiting import apply_waiting
from voltool.tree.state import StateKeeper
from voltool.volumes import btrfs_ioctl
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.records import AREA_NAME
from voltool.volumes.removal import remove_tree
from voltool.volumes.traits import synchronize, traits_of


class HostReplica:
    """``record`` as last saved; ``held`` while a tree is being made. `close` gives it up, as it is. ``changed``: the path of
    something in the served tree that somebody had changed, None where nobody had."""

    def __init__(self, host: HostState, record: ReplicaRecord) -> None:
        self.host = host
        self.book = ReplicaBook(host.directory)
        self.record = record
        self.place: ReplicaPlace = place_of(record)
        self.served = ServedTree(self.place)
        self.journal = Journal(self.place)
        self.held: Optional[HeldTree] = None
        self.changed: Optional[bytes] = None
        self.losses = Losses()
        self.owners = Owners(numeric=False)
        self.attributes = Attributes(self.owners, self.losses)

    def save(self, record: ReplicaRecord) -> None:
        """Durably."""
        self.book.save(record)
        self.record = record

    # ------------------------------------------------------------------------------------------------------ beginning

    def go_on(self) -> None:
        """Whatever was cut off is brought to where the next dump can come: a swap is finished, a tree that was being made is
        opened again, what is served is protected and looked at. Repeatable. Raises VoltoolError."""
        with _translated(self.place.path):
            self.finish_swap()
            if self.record.phase in (LAZY, LAZY_HOME):
                return  # what is being made is its process's alone
            journal.remove_dropped(self.place)
            if self.record.phase == SERVING:
                self._look_after_served()
            self._open_again()

    def _look_after_served(self) -> None:
        if not self.served.is_there():
            if os.path.lexists(self.place.path):
                raise RefusedError(
                    "what stands at the replica's path is not the replica",
                    where=shown(self.place.path),
                    why="it is another tree than the one that was swapped in last",
                    remedy="take it away: what is missing is copied anew; or voltool replica remove",
                )
            self._discard_next()
            self.save(dataclasses.replace(self.record, phase=FILLING, state_id=""))
            return
        self.changed = self.served.difference()
        if self.changed is not None:
            assert self.served.known is not None
            self._discard_next()  # it may have files in common with what was changed
            found = rescan(self.place, self.served.known.state_id, self.host)
            self.served.save(dataclasses.replace(self.served.known, state_id=found))
        self._settle()

    def _settle(self) -> None:
        """What is served cannot be written to, and is known as it is now."""
        known = self.served.known
        assert known is not None
        if not guard.is_protected(self.place.path):
            with contextlib.suppress(HostError):  # told with the status
                guard.protect(self.place.path)
        if os.path.lexists(self._staging_path()):
            return  # a tree of links to it is being made
        if known.loose or self.changed is not None or guard.generation_of(self.place.path) != known.generation:
            self.served.settle()

    def _open_again(self) -> None:
        """The tree that a run before this one was making, if anything of it is of use."""
        staging = self._find_staging()
        if staging is None:
            if self.record.phase != FILLING:
                self._discard_next()  # cut off before it held anything
            return
        self.held = held = self._hold(staging)
        self.losses.merge(held.kept_losses())
        if held.record is None and (self.record.phase == SERVING or not salvage(held)):
            self._discard_next()
            return
        assert held.record is not None
        state = held.keeper.open(held.record.state_id)
        if state is not None:
            state.close()
        if state is None or self._brings_nothing(held.record):
            self._discard_next()
            return
        held.learn_owners(self.owners, [])
        if held.record.applying:
            self._apply()

    def _brings_nothing(self, record: HeldRecord) -> bool:
        """Whether it is what is served already, whole or half taken apart."""
        known = self.served.known
        serving = self.record.phase == SERVING and known is not None
        return serving and known is not None and not record.applying and record.state_id == known.state_id

    # ----------------------------------------------------------------------------------------------------------- held

    @property
    def held_state(self) -> str:
        """The state that an increment is to be made against: of the tree that is being made, else of what is served."""
        if self.held is not None and self.held.record is not None:
            return "" if self.held.record.applying else self.held.record.state_id
        if self.record.phase == SERVING and self.served.known is not None:
            return self.served.known.state_id
        return ""

    @property
    def keeper(self) -> StateKeeper:
        """The states of what is held and served."""
        return StateKeeper(self.place.states)

    def begin_first(self) -> HeldTree:
        """An empty tree for a first copy; a btrfs subvolume where that can be."""
        if self.held is not None:
            return self.held
        with _translated(self.place.path):
            if os.geteuid() == 0 and not os.path.lexists(self.place.next) and self._is_btrfs():
                with opened_directory(self.place.directory) as directory:
                    btrfs_ioctl.create_subvolume(directory, os.path.basename(self.place.next))
                os.chmod(self.place.next, 0o700)
            self.held = self._hold(open_staging(self._key(), into_existing=False))
            return self.held

    def begin_next(self) -> HeldTree:
        """The tree that will be served next, like the one that is."""
        if self.held is not None:
            return self.held
        assert self.served.known is not None
        try:
            with _translated(self.place.path):
                self.held = held = self._hold(stage_next(self.place, self._key(), self.served))
                if held.shared:
                    held.staging.sync()  # links; a snapshot is on disk when it is made
                held.save(HeldRecord(self.served.known.state_id, assembled=True))
        except SpaceError:
            self._discard_next()
            raise
        held.learn_owners(self.owners, [])
        return held

    def apply(self) -> int:
        """Apply the increment that has come whole; the bytes of content written. SpaceError: there is no room for what changed
        beside what is served, which goes on being served."""
        held = self.held
        assert held is not None
        assert held.record is not None
        take_apart_for_increment(held)
        held.save(dataclasses.replace(held.record, applying=True))
        return self._apply()

    def _apply(self) -> int:
        held = self.held
        assert held is not None
        try:
            brought = apply_waiting(held, self.attributes, self.owners, self.losses, keep=self._needed())
        except SpaceError:
            if self.record.phase == SERVING:
                self._discard_next()
            raise
        return brought.bytes if brought is not None else 0

    def _needed(self) -> List[str]:
        """States besides the one that is held."""
        return [self.served.known.state_id] if self.served.known is not None else []

    def _discard_next(self) -> None:
        """Nothing of the tree that was being made is kept."""
        if self.held is not None:
            self.held.staging.close()
            self.held = None
        for path in (self.place.next, self._staging_path(), self._staging_path(inside=True)):
            remove_tree(path)
        durable.remove_file(self.place.increment)

    def _find_staging(self) -> Optional[Staging]:
        if self.held is not None:
            return self.held.staging
        progress = load_progress(self._staging_path(inside=True))
        if progress is not None and progress.way == Way.INSIDE.value:
            return open_inside(self._key())
        if progress is not None or load_progress(self._staging_path()) is not None:
            return open_staging(self._key(), into_existing=False)
        return None

    def _staging_path(self, *, inside: bool = False) -> bytes:
        around = self.place.next if inside else self.place.directory
        return staging_path(self._key(), os.path.join(around, AREA_NAME))

    def _key(self) -> StagingKey:
        return staging_key(self.record)

    def _hold(self, staging: Staging) -> HeldTree:
        serving = self.record.phase == SERVING
        shared = staging.way is Way.RENAME and serving
        held = HeldTree(staging, states=self.place.states, increment=self.place.increment, shared=shared)
        if serving and self.served.known is not None and not has_copies(staging):
            held.stamped = self.served.known.state_id
        return held

    def _is_btrfs(self) -> bool:
        return traits_of(self.place.directory).kind == "btrfs"

    # ----------------------------------------------------------------------------------------------------------- swap

    def swap(self, record: ReplicaRecord) -> None:
        """Serve the state of ``record``, which is held. Repeatable. IntegrityError where it is not that state that is held."""
        if record.state_id != self.held_state:
            raise IntegrityError(
                "the replica does not hold what is to be served",
                where=shown(self.place.path),
                remedy="voltool replica sync",
            )
        if self.held is None:
            self.save(record)  # nothing has changed but the time at which it was so
            return
        assert self.held.record is not None
        with _translated(self.place.path):
            if not self.held.record.assembled:
                make_ready(self.held, self.attributes, self.losses)
            self.journal.write(Swap(record))
            self.finish_swap()

    def finish_swap(self) -> None:
        """See `journal`. Raises VoltoolError, OSError."""
        swap = self.journal.read()
        if swap is None:
            return
        clear_dead_mounts(self.place.path)
        if not swap.identity:
            self._publish(swap.record.state_id)
            swap = Swap(swap.record, guard.identity_of(self.place.next))
            self.journal.write(swap)
        self._free_path()
        journal.exchange(self.place, swap.identity)
        self._finish_root(swap.record.state_id)
        loose = self.served.known is None or not guard.generation_of(self.place.path)
        self.served.save(Served(swap.record.state_id, swap.identity, loose=loose))
        self.save(dataclasses.replace(swap.record, synced_ns=time.time_ns()))
        self.journal.remove()
        journal.remove_dropped(self.place)
        self.keeper.keep_only({swap.record.state_id})
        self._settle()

    def _free_path(self) -> None:
        """What stands there may be what keeps the name of a volume that lived here: then the replica takes its place."""
        retired = MoveBook(self.host.directory).source(self.record.uuid)
        if retired is not None and placeholder.stands_at(self.place.path, retired):
            placeholder.unseal(self.place.path)

    def _publish(self, state_id: str) -> None:
        """What is staged becomes `next`, whole, with its root's own attributes last."""
        record = self._root_record(state_id)
        staging = self._find_staging()
        if staging is not None:
            held = self.held or self._hold(staging)
            if held.record is not None and held.record.assembled and held.record.state_id == state_id:
                held.learn_owners(self.owners, [])
                publish_ready(held, self.attributes, self.losses, record)
            staging.close()
        self.held = None
        for path in (self._staging_path(), self._staging_path(inside=True)):
            remove_tree(path)  # what is left of it: it was cut off while it was taken away
        for area in (self.place.directory, self.place.next):
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(area, AREA_NAME))
        durable.remove_file(self.place.increment)
        with opened_directory(self.place.next) as root:
            self.attributes.times(root, fmt.decode_object(record))
            self.attributes.seal(root, fmt.decode_object(record))
        synchronize(self.place.next)

    def _finish_root(self, state_id: str) -> None:
        """An exchange that was cut off may have left the root with another time, or not immutable any more."""
        root = fmt.decode_object(self._root_record(state_id))
        path = self.place.path
        with opened_directory(path) as descriptor:
            sealed = inodes.get_flags(descriptor)[0] & SEALS
            is_right = os.fstat(descriptor).st_mtime_ns == record_times(root, 0)[1] and sealed == root.flags & SEALS
        if is_right or (sealed and not root.flags & SEALS):
            return
        guard.unprotect(path)
        with opened_directory(path) as descriptor:
            self.attributes.times(descriptor, root)
            self.attributes.seal(descriptor, root)

    def _root_record(self, state_id: str) -> bytes:
        state = self.keeper.open(state_id)
        root = state.object(ROOT_OBJECT) if state is not None else None
        if state is not None:
            state.close()
        if root is None:
            raise HostError(
                "the manifest of what is to be served cannot be read",
                where=shown(self.place.states),
                remedy="voltool replica remove, and add it again",
            )
        return root

    def close(self) -> None:
        """Give the tree that is being made up, as it is. Idempotent."""
        if self.held is not None:
            self.held.staging.close()
            self.held = None


@contextlib.contextmanager
def _translated(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise translate(error, shown(path)) from error
