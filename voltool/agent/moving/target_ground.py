"""The new home for real: staging that holds a state, the states' way into the volume's area, the registry. Ships to servers."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import time
from typing import Optional

from voltool import durable
from voltool.agent.bases import MOVE_LEVEL, Base, BaseBook
from voltool.agent.host import HostState
from voltool.agent.moving import container
from voltool.agent.moving.way_back import is_as_left, take_retired
from voltool.agent.replica.making import take_apart_for_increment
from voltool.agent.replica.records import ReplicaBook
from voltool.dumpfile import format as fmt
from voltool.errors import IntegrityError, RefusedError
from voltool.model import PREPARED, SourceMove, TargetMove, VolumeRecord
from voltool.showing import shown
from voltool.tree.apply.arrival import salvage
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.files import translate
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.parts import forget_parts
from voltool.tree.apply.ready import is_flat, make_ready, publish_ready, take_all_apart, take_apart
from voltool.tree.apply.staging import Staging, StagingKey, Way, open_staging
from voltool.tree.apply.waiting import IncrementFile, apply_waiting, open_increment
from voltool.volumes import records
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import LockWish, read_only_meanwhile, unlock_tree
from voltool.volumes.mounts import is_within
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.registry import detect
from voltool.volumes.removal import remove_tree
from voltool.volumes.traits import synchronize

_KEPT_MODE = 0o700
#: How long publishing entry by entry may take before ``voltool doctor`` speaks of a lock that is over.
_PUBLISHING_SECONDS = 3600


class HostTarget:
    """A `TargetGround` on this host. ``held`` while staging is open; `close` gives it up."""

    def __init__(self, host: HostState, uuid: str) -> None:
        self._host = host
        self._uuid = uuid
        self._moves = MoveBook(host.directory)
        self._book = LockBook(host.directory, uuid)
        self.held: Optional[HeldTree] = None
        self.losses = Losses()
        self.owners = Owners(numeric=False)
        self.attributes = Attributes(self.owners, self.losses)

    def load(self) -> Optional[TargetMove]:
        """See `TargetGround`."""
        return self._moves.target(self._uuid)

    def save(self, move: TargetMove) -> None:
        """See `TargetGround`."""
        self._moves.save_target(move)

    def remove(self) -> None:
        """See `TargetGround`."""
        self._moves.remove_target(self._uuid)

    def open_staging(self, move: TargetMove) -> None:
        """See `TargetGround`."""
        if self.held is not None:
            return
        if self._book.read() is not None:
            unlock_tree(self._book)  # publishing was cut off
        if move.phase == PREPARED and not self._has_staging(move):
            return  # publishing was cut off after the tree had got its name
        self.refuse_overlap(move)
        move = self._make_container(move)
        staging = self._staging(move)
        records.remember_area(self._host.directory, staging.path)
        self._take_retired(move, staging)
        held = HeldTree(staging)
        self.losses.merge(held.kept_losses())
        self.held = held
        if held.record is None and not salvage(held) and not staging.fresh:
            self._begin_anew(move)
            return
        held.learn_owners(self.owners, [])
        if held.record is not None and not held.record.assembled:
            self._apply_waiting()
            take_all_apart(held)
        elif held.record is not None:
            forget_parts(staging.path)  # all of them were put back

    def _make_container(self, move: TargetMove) -> TargetMove:
        """Where the file system has subvolumes the volume gets one; it is written down before it is made."""
        retired = self._moves.source(self._uuid)
        if not move.container and not self._has_staging(move):
            kind = container.wanted(move, retired)
            if kind == container.RETIRED_SUBVOLUME and not self._can_serve(retired):
                kind = container.wanted(move, None)
            if kind:
                move = dataclasses.replace(move, container=kind)
                self.save(move)
        container.make(move, retired)
        return move

    def _can_serve(self, retired: Optional[SourceMove]) -> bool:
        """Whether the subvolume that the volume left here is as it was left."""
        if retired is None:
            return False
        area = records.area_of(retired.path, self._uuid)
        try:
            return is_as_left(retired, area, area)
        except OSError as error:
            raise translate(error, "the copy that the volume left here") from error

    def _take_retired(self, move: TargetMove, staging: Staging) -> None:
        """What the volume left here when it moved away is the base of what comes."""
        retired = self._moves.source(self._uuid)
        if retired is None:
            return
        area = records.area_of(retired.path, self._uuid)
        if move.container == container.RETIRED_SUBVOLUME:
            retired = dataclasses.replace(retired, retired_path=container.tree_within(move), by_entries=True)
        try:
            take_retired(staging, retired, area)
        except OSError as error:
            raise translate(error, "the copy that the volume left here") from error
        if move.container == container.RETIRED_SUBVOLUME:
            remove_tree(retired.retired_path)  # where it could not be taken after all

    def _begin_anew(self, move: TargetMove) -> None:
        """Nothing of what came is worth keeping."""
        assert self.held is not None
        self.held.staging.remove()
        self.held = HeldTree(self._staging(move))

    def _staging(self, move: TargetMove) -> Staging:
        return open_staging(StagingKey(move.path, move.uuid, "", f"move {move.move_id}"), into_existing=False)

    def refuse_overlap(self, move: TargetMove) -> None:
        """RefusedError where the target and a volume that lives here, or a replica, would contain each other, or where the volume
        has a replica here: a volume's home cannot have one."""
        for entry in records.list_entries(self._host.directory):
            inside = is_within(move.path, entry.path) or is_within(entry.path, move.path)
            if entry.lives and entry.uuid != move.uuid and inside:
                raise RefusedError(
                    "the target is, contains or lies in another volume",
                    where=shown(move.path),
                    why=f"this host has a volume at {shown(entry.path)}",
                    remedy="another target; volumes must not contain each other",
                )
            if entry.lives and entry.uuid == move.uuid:
                raise RefusedError(
                    "the volume lives on this host already",
                    where=shown(entry.path),
                    remedy="a move is from one host to another",
                )
        replicas = ReplicaBook(self._host.directory)
        replicas.refuse_overlap(move.path)
        record = replicas.find(move.uuid)
        if record is not None:
            raise RefusedError(
                "this host has a replica of the volume",
                where=shown(record.path),
                why="no host can have both",
                remedy=f"voltool replica promote {move.name} HOST makes it the home; or voltool replica remove {move.name} HOST",
            )

    def apply_waiting(self) -> int:
        """Apply the increment that has come, if one has; the bytes of content written."""
        return self._apply_waiting()

    def _apply_waiting(self) -> int:
        """Also one that a crash interrupted. The tree, or the parts of it that were taken out, is in its flat form afterwards."""
        held = self._open()
        if held.record is None:
            return 0
        if not is_flat(held):
            take_apart(held)
        keep = [held.stamped] if held.stamped else []
        brought = apply_waiting(held, self.attributes, self.owners, self.losses, keep)
        return brought.bytes if brought is not None else 0

    def take(self, increment: IncrementFile) -> int:
        """Apply an increment that has come to its end; the bytes of content written. One that leads to what is held leaves the
        tree as it is: what it says of owners is remembered."""
        held = self._open()
        if not increment.changes():
            with open_increment(held) as reader:
                held.learn_owners(self.owners, reader.records(fmt.OWNERS))
            os.unlink(held.increment_path)
            return 0
        try:
            take_apart_for_increment(held)
        except OSError as error:
            raise translate(error, "the staged tree") from error
        increment.finish()
        return self.apply_waiting()

    def get_ready(self) -> None:
        """Before the lock: put together what is held and take its stamps, so that under the lock that is to be done for what the
        last increment touches alone. Where top entries are to be immutable once they are published, everything is done
        again then."""
        held = self._open()
        record = held.record
        if record is None or record.applying or record.assembled:
            return
        self._put_together(held)
        if not held.staging.progress.sealed:
            held.stamped = record.state_id

    def held_state(self) -> str:
        """See `TargetGround`."""
        record = self._open().record
        return record.state_id if record is not None and not record.applying else ""

    def make_ready(self, move: TargetMove) -> TargetMove:
        """See `TargetGround`."""
        self._free_path(move)
        held = self._open()
        assert held.record is not None
        if held.record.assembled and held.stamped == held.record.state_id:
            held.staging.sync()  # nothing has come since `get_ready`
        else:
            self._put_together(held)
        if not os.path.lexists(move.path):
            move = self._reserved(move)
        if self._is_left(move.path):
            placeholder.seal(move.path)
        else:
            placeholder.keep(move)
        return move

    def _put_together(self, held: HeldTree) -> None:
        """What directories cannot hold is told again by a session that finds it done."""
        make_ready(held, self.attributes, self.losses)
        held.keep_losses(self.losses)

    def _reserved(self, move: TargetMove) -> TargetMove:
        """Keep the path by an empty directory; it is written down first, so that an abort takes it away whenever we die."""
        move = dataclasses.replace(move, reserved=True)
        self.save(move)
        os.mkdir(move.path, _KEPT_MODE)
        durable.fsync_directory(os.path.dirname(move.path))
        return move

    def _is_left(self, path: bytes) -> bool:
        """Whether what stands there is what the volume left here when it moved away."""
        retired = self._moves.source(self._uuid)
        return retired is not None and placeholder.stands_at(path, retired)

    def _free_path(self, move: TargetMove) -> None:
        """What stands at the path must be such that the tree can take its place."""
        try:
            placeholder.let_go(move)
            if self._is_left(move.path):
                placeholder.unseal(move.path)
        except OSError as error:
            raise translate(error, shown(move.path)) from error
        if placeholder.is_sealed(move.path):
            raise RefusedError(
                "the target is immutable",
                where=shown(move.path),
                why="the empty directory there has the attribute +i",
                remedy=f"chattr -i {shown(move.path)}, or another target",
            )

    def publish(self, move: TargetMove) -> None:
        """See `TargetGround`. Repeatable: states, tree, then the registry; the staging goes with the tree."""
        area = records.area_of(move.path, move.uuid)
        staging = self._find_staging(move)
        if staging is not None:
            self.held = held = HeldTree(staging)
            if held.record is None or not held.record.assembled or held.record.state_id != move.state_id:
                raise IntegrityError(
                    "the copy is not ready to be published",
                    where=shown(staging.path),
                    remedy="do not remove anything: the volume's old home keeps its copy; report this",
                )
            root = self._keep_states(held, area)
            self._free_path(move)
            self._name_tree(move, held, root)
            records.forget_area(self._host.directory, staging.path)
            self.held = None
        assert move.epoch is not None
        record = VolumeRecord(
            uuid=move.uuid,
            name=move.name,
            path=move.path,
            driver=detect(move.path),
            epoch=move.epoch,
            sequence=move.sequence,
            excludes=move.excludes,
            created_ns=time.time_ns(),
        )
        records.create(self._host.directory, record)
        BaseBook(area).begin_with(Base(move.state_id, move.move_id, "", MOVE_LEVEL))
        retired = self._moves.source(move.uuid)
        if retired is not None and not os.path.lexists(retired.retired_path):
            placeholder.remove(retired)  # of a volume that has come back to another path
        self._moves.archive_source(move.uuid, area)

    def _name_tree(self, move: TargetMove, held: HeldTree, root: bytes) -> None:
        """Publish; a tree that appears entry by entry is read-only for everybody else until it is whole."""
        if held.staging.way is not Way.ENTRIES or os.geteuid() != 0:
            publish_ready(held, self.attributes, self.losses, root)
            return
        wish = LockWish(move.uuid, move.name, move.path, f"move {move.move_id}", _PUBLISHING_SECONDS)
        with read_only_meanwhile(self._book, wish):
            publish_ready(held, self.attributes, self.losses, root)

    def _find_staging(self, move: TargetMove) -> Optional[Staging]:
        """The open one, or that of an interrupted publish; None where it is done with."""
        if self.held is not None and self.held.staging.descriptor >= 0:
            return self.held.staging
        return self._staging(move) if self._has_staging(move) else None

    def _has_staging(self, move: TargetMove) -> bool:
        name = b"staging-" + StagingKey(move.path, move.uuid, "", f"move {move.move_id}").digest()
        places = (move.path, os.path.dirname(move.path))
        return any(os.path.isdir(os.path.join(place, records.AREA_NAME, name)) for place in places)

    def _keep_states(self, held: HeldTree, area: bytes) -> bytes:
        """Bring the states to where the volume's dumps look for them; the root's record. Repeatable."""
        durable.make_directory(area)
        kept = os.path.join(area, b"root-record")
        place = os.path.join(area, b"states")
        if os.path.isdir(held.keeper.directory) and held.record is not None:
            state = held.keeper.open(held.record.state_id)
            root = state.object(1) if state is not None else None
            if state is not None:
                state.close()
            if root is not None:
                durable.write_file(kept, root)
                _take_directory(held.keeper.directory, place)
        with open(kept, "rb") as file:
            return file.read()

    def discard(self, move: TargetMove) -> None:
        """See `TargetGround`."""
        staging = self._find_staging(move)
        if staging is not None:
            staging.remove()
            records.forget_area(self._host.directory, staging.path)
        self.held = None
        with contextlib.suppress(OSError):
            placeholder.let_go(move)
        container.discard(move, self._moves.source(self._uuid))
        if self._is_left(move.path):
            placeholder.seal(move.path)
        if move.reserved:
            with contextlib.suppress(OSError):
                os.rmdir(move.path)

    def close(self) -> None:
        """Give the staging up, as it is. Idempotent."""
        if self.held is not None:
            self.held.staging.close()
            self.held = None

    def _open(self) -> HeldTree:
        if self.held is None:
            raise RefusedError("nothing is being received", remedy="voltool move --resume")
        return self.held


def _take_directory(old: bytes, new: bytes) -> None:
    """Rename it, in the place of what is there; out of a subvolume it is copied. Durable, repeatable."""
    shutil.rmtree(new, ignore_errors=True)
    try:
        os.rename(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(new + b".new", ignore_errors=True)
        shutil.copytree(os.fsdecode(old), os.fsdecode(new + b".new"))
        synchronize(new + b".new")
        os.rename(new + b".new", new)
        durable.fsync_directory(os.path.dirname(new))
        shutil.rmtree(old)
    else:
        durable.fsync_directory(os.path.dirname(new))
