"""A replica becomes the volume's home on this host: a `PromotionGround`, and the step `PromoteReplica`. Ships to servers."""

from __future__ import annotations

import os
import shutil
import time
from typing import Optional

from voltool import durable
from voltool.agent.bases import MOVE_LEVEL, Base, BaseBook
from voltool.agent.host import HostState
from voltool.agent.moving.target_ground import take_directory
from voltool.agent.replica import guard
from voltool.agent.replica.place import place_of
from voltool.agent.replica.promoting import Becoming, Promoting, give_up
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.replica.served import ServedTree
from voltool.agent.replica.standing import BEGINNING
from voltool.errors import HostError, MovedError, NotFoundError, RefusedError
from voltool.model import PREPARED, PUBLISHED, RECEIVING, ReplicaRecord, TargetMove, VolumeRecord
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.hooks import hook_of, run_hook
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.registry import detect
from voltool.volumes.removal import remove_tree
from voltool.wire import replicas


def promote_replica(step: replicas.PromoteReplica, host: HostState, uuid: str) -> replicas.Promoted:
    """Carry out `PromoteReplica`; the caller holds the replica's lock. The volume is in service whatever ``after_online``
    says."""

    def before_online(record: ReplicaRecord) -> None:
        run_hook(hook_of(step.hooks, "before_online"), "before_online", record.name, record.path)

    wish = Becoming(step.epoch, step.sequence, step.excludes, step.changed_too)
    home = Promoting(HostPromotion(host, uuid)).promote(wish, before_online)
    failed = ""
    try:
        run_hook(hook_of(step.hooks, "after_online"), "after_online", home.name, home.path)
    except HostError as error:
        failed = error.why or error.what
    return replicas.Promoted(home, failed)


def refuse_promoted(host: HostState, uuid: str) -> None:
    """MovedError where the volume lives on this host: what was its replica is no replica any more. A promotion that was cut off
    before its commit is forgotten. The caller holds the replica's lock, where there is one."""
    ground = HostPromotion(host, uuid)
    home = ground.home()
    if home is not None:
        raise MovedError(
            "the volume lives on this host, it is no replica",
            where=shown(home.path),
            why=f"with epoch {home.epoch.number}: a replica was promoted here, or the volume moved here",
            remedy=f"voltool replica list {home.name}: it asks all hosts, and the catalog learns where it lives",
        )
    give_up(ground)


class HostPromotion:
    """A `PromotionGround` on this host."""

    def __init__(self, host: HostState, uuid: str) -> None:
        self._host = host
        self._uuid = uuid
        self._book = ReplicaBook(host.directory)
        self._moves = MoveBook(host.directory)

    def load(self) -> Optional[ReplicaRecord]:
        """See `PromotionGround`."""
        return self._book.find(self._uuid)

    def save(self, record: ReplicaRecord) -> None:
        """See `PromotionGround`."""
        self._book.save(record)

    def home(self) -> Optional[VolumeRecord]:
        """See `PromotionGround`. NotFoundError where only the registry says so: it may not be mounted."""
        for entry in records.list_entries(self._host.directory):
            if entry.uuid != self._uuid or entry.forgotten:
                continue
            record = records.read_record(entry.area)
            replica = self.load()
            if record is None and replica is not None and replica.path == entry.path:
                return None  # cut off just before it became the home
            if record is None:
                raise NotFoundError("the volume's own records are not there", where=shown(entry.area))
            return record
        return None

    def check(self, record: ReplicaRecord, *, changed_too: bool) -> None:
        """See `PromotionGround`."""
        coming = self._moves.target(self._uuid)
        if coming is not None and coming.phase in (RECEIVING, PREPARED):
            raise RefusedError(
                "a move brings the volume to this host",
                where=shown(coming.path),
                remedy=f"voltool move --resume {record.name}, or --abort {record.name}",
            )
        place = place_of(record)
        if not os.path.isdir(place.states):
            return  # cut off between taking the states along and the commit: it was looked at before
        served = ServedTree(place)
        if not served.is_there():
            raise RefusedError(
                "what is at the replica's path is not the replica",
                where=shown(record.path),
                why="somebody has moved it, or its file system is not mounted",
                remedy="voltool replica sync repairs it; another replica can be promoted",
            )
        changed = served.difference()
        if changed is not None and not changed_too:
            raise RefusedError(
                "somebody has changed the replica",
                where=shown(os.path.join(record.path, changed)),
                why="what is there is not what the volume was",
                remedy=f"voltool replica sync {record.name} repairs it; --force makes it the volume as it is",
            )

    def settle(self, record: ReplicaRecord) -> None:
        """See `PromotionGround`. The stamps are taken after the links to the files in other trees are gone, which show in
        them."""
        place = place_of(record)
        if not os.path.isdir(place.states):
            return
        served = ServedTree(place)
        untouched = served.difference() is None
        served.loosen()
        for tree in (place.next, place.previous, place.dropped):
            guard.take_mounts_off(tree)
            remove_tree(tree)
        if untouched:
            served.settle()

    def become_home(self, record: ReplicaRecord) -> None:
        """See `PromotionGround`."""
        assert record.next_epoch is not None
        area = _area_of(record)
        durable.make_directory(area)
        self._take_states(record, area)
        came = TargetMove(
            move_id=record.next_epoch.token,
            uuid=record.uuid,
            name=record.name,
            path=record.path,
            source=record.home,
            phase=PUBLISHED,
            since=int(time.time()),
            excludes=record.next_excludes,
            epoch=record.next_epoch,
            state_id=record.state_id,
            sequence=record.next_sequence,
        )
        self._moves.save_target(came)
        BaseBook(area).begin_with(Base(record.state_id, came.move_id, "", MOVE_LEVEL))
        volume = VolumeRecord(
            uuid=record.uuid,
            name=record.name,
            path=record.path,
            driver=detect(record.path),
            epoch=record.next_epoch,
            sequence=max(record.next_sequence, record.sequence + 1),
            excludes=record.next_excludes,
            created_ns=time.time_ns(),
        )
        records.create(self._host.directory, volume)
        retired = self._moves.source(record.uuid)
        if retired is not None and retired.path != record.path and not os.path.lexists(retired.retired_path):
            placeholder.remove(retired)
        self._moves.archive_source(record.uuid, area)  # of a former home that it is again

    def open(self, record: ReplicaRecord) -> None:
        """See `PromotionGround`."""
        guard.unprotect(record.path)

    def forget(self, record: ReplicaRecord) -> None:
        """See `PromotionGround`."""
        place = place_of(record)
        remove_tree(place.directory)
        records.forget_area(self._host.directory, place.directory)
        self._book.remove(record.uuid)

    def _take_states(self, record: ReplicaRecord, area: bytes) -> None:
        """To where dumps look for them; the manifest of the state also to where those who did not hear of this can ask for
        it."""
        states = os.path.join(area, b"states")
        place = place_of(record)
        if os.path.isdir(place.states):
            take_directory(place.states, states)
        beginning = os.path.join(area, BEGINNING)
        if not os.path.isdir(os.path.join(beginning, record.state_id.encode())):
            remove_tree(beginning)
            shutil.rmtree(beginning + b".new", ignore_errors=True)
            shutil.copytree(os.fsdecode(states), os.fsdecode(beginning) + ".new", copy_function=os.link)
            os.rename(beginning + b".new", beginning)  # the files of a state never change, so links are copies
            durable.fsync_directory(area)


def _area_of(record: ReplicaRecord) -> bytes:
    """Beside the tree, where the replica's own place is: a replica is never a mount point of its own."""
    return os.path.join(os.path.dirname(record.path), records.AREA_NAME, record.uuid.encode())
