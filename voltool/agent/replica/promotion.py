"""A replica becomes the volume's home on this host: a `PromotionGround`, and the step `PromoteReplica`. Ships to servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING, Optional

from voltool import durable
from voltool.agent.bases import MOVE_LEVEL, Base, BaseBook
from voltool.agent.host import HostState
from voltool.agent.replica import guard
from voltool.agent.replica.claims import home_here
from voltool.agent.replica.ground import HostReplica
from voltool.agent.replica.place import place_of
from voltool.agent.replica.promoting import Becoming, Promoting
from voltool.agent.replica.records import ReplicaBook
from voltool.agent.replica.served import ServedTree
from voltool.agent.replica.standing import BEGINNING
from voltool.errors import HostError, RefusedError
from voltool.model import PREPARED, PUBLISHED, RECEIVING, ReplicaRecord, TargetMove, VolumeRecord
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.hooks import hook_of, run_hook
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.registry import detect
from voltool.volumes.removal import remove_tree
from voltool.wire import replicas

if TYPE_CHECKING:
    from voltool.agent.replica.into import Session


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


def promote_step(step: replicas.PromoteReplica, session: Session) -> replicas.Promoted:
    """The step of `ReplicaIn`; afterwards there is no replica any more."""
    session.replica.close()
    promoted = promote_replica(step, session.host, session.replica.record.uuid)
    session.gone = True
    return promoted


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
        """See `PromotionGround`."""
        return home_here(self._host, self._uuid)

    def check(self, record: ReplicaRecord, *, changed_too: bool) -> ReplicaRecord:
        """See `PromotionGround`."""
        coming = self._moves.target(self._uuid)
        if coming is not None and coming.phase in (RECEIVING, PREPARED):
            raise RefusedError(
                "a move brings the volume to this host",
                where=shown(coming.path),
                remedy=f"voltool move --resume {record.name}, or --abort {record.name}",
            )
        with contextlib.closing(HostReplica(self._host, record)) as replica:
            replica.go_on()
            if replica.changed is not None and not changed_too:
                raise RefusedError(
                    "somebody has changed the replica",
                    where=shown(os.path.join(record.path, replica.changed)),
                    why="what is there is not what the volume was",
                    remedy=f"voltool replica sync {record.name} repairs it; --force makes it the volume as it is",
                )
            return replica.record

    def settle(self, record: ReplicaRecord) -> None:
        """See `PromotionGround`. The stamps are taken after the links to the files in other trees are gone, which show in
        them."""
        place = place_of(record)
        served = ServedTree(place)
        kept = {place.states, place.served, place.record, os.path.join(place.directory, records.LOCK_NAME)}
        served.loosen()
        guard.take_mounts_off(place.next)
        for name in os.listdir(place.directory):
            if os.path.join(place.directory, name) not in kept:
                remove_tree(os.path.join(place.directory, name))
        served.settle()

    def become_home(self, record: ReplicaRecord) -> None:
        """See `PromotionGround`."""
        assert record.next_epoch is not None
        area = _area_of(record)
        durable.make_directory(area)
        state_id = self._take_states(record, area)
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
        BaseBook(area).begin_with(Base(state_id, came.move_id, "", MOVE_LEVEL))
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

    def _take_states(self, record: ReplicaRecord, area: bytes) -> str:
        """To where dumps look for them; the manifest of the state also to where those who did not hear of this can ask for
        it."""
        served = ServedTree(place_of(record)).known
        assert served is not None
        for name in (b"states", BEGINNING):
            new = os.path.join(area, name + b".new")
            shutil.rmtree(new, ignore_errors=True)
            # The files of a state never change, so links are copies; nothing is taken from the replica before the commit.
            shutil.copytree(os.fsdecode(place_of(record).states), os.fsdecode(new), copy_function=os.link)
            remove_tree(os.path.join(area, name))
            os.rename(new, os.path.join(area, name))
        durable.fsync_directory(area)
        return served.state_id


def _area_of(record: ReplicaRecord) -> bytes:
    """Beside the tree, where the replica's own place is: a replica is never a mount point of its own."""
    return os.path.join(os.path.dirname(record.path), records.AREA_NAME, record.uuid.encode())
