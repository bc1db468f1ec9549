"""The new home of a lazy move: of the volume only the manifest comes before the switch, and publishing is an overlay over the
lazy mount. What lies where: `agent.lazymove.home`. Ships to servers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from typing import Iterator

from voltool import durable
from voltool.agent.fetching.keys import drop_identity
from voltool.agent.fetching.reaching import reach_one, sources_reached
from voltool.agent.host import HostState
from voltool.agent.lazy.arriving import ManifestArrival
from voltool.agent.lazy.index import TreeIndex
from voltool.agent.lazymove import fill, overlay
from voltool.agent.lazymove.home import HomeWishes, LazyHome
from voltool.agent.moving.target_ground import HostTarget
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import AgentError, HostError, RefusedError
from voltool.model import PREPARED, PUBLISHED, TargetMove, VolumeRecord
from voltool.showing import shown
from voltool.tree.apply.held import HeldTree
from voltool.volumes import records
from voltool.volumes.mounts import is_mount_point
from voltool.volumes.moving import placeholder
from voltool.volumes.removal import remove_tree
from voltool.wire import messages, replicas
from voltool.wire.conversation import Conversation
from voltool.wire.moving import Arrived, FetchFrom

_KEPT_MODE = 0o700
_DRIVER = "directory"


def check_place(host: HostState, move: TargetMove) -> None:
    """RefusedError, HostError where a lazy move cannot lead to its path."""
    from voltool import fuse

    path = move.path
    if ReplicaBook(host.directory).find(move.uuid) is not None:
        raise RefusedError(
            "this host has a replica of the volume",
            where=shown(path),
            remedy=f"voltool replica promote {move.name} HOST; or voltool replica remove {move.name} HOST, then move it",
        )
    if is_mount_point(path):
        raise RefusedError(
            "a lazy move cannot lead to a mount point",
            where=shown(path),
            why="in the end the whole tree changes places with what is mounted there",
            remedy="a directory in it, or voltool move without --lazy",
        )
    fuse.load()
    with _own_directory(os.path.dirname(path)) as place:
        overlay.check_upper(place)


@contextlib.contextmanager
def _own_directory(parent: bytes) -> Iterator[bytes]:
    """Voltool's directory in ``parent``, which goes again where it was not there. HostError."""
    place = os.path.join(parent, records.AREA_NAME)
    there = os.path.isdir(place)
    try:
        if not there:
            os.mkdir(place, _KEPT_MODE)
        yield place
    except OSError as error:
        raise HostError("nothing can be made there", where=shown(parent), why=error.strerror or str(error)) from error
    finally:
        if not there:
            with contextlib.suppress(OSError):
                os.rmdir(place)


class LazyTarget(HostTarget):
    """A `TargetGround` on this host."""

    def __init__(self, host: HostState, uuid: str) -> None:
        super().__init__(host, uuid)
        self._lazy_state = ""

    def open_staging(self, move: TargetMove) -> None:
        """See `TargetGround`. What is prepared is left to the process that has it, until something is received again."""
        if move.phase == PREPARED and self._lives(move):
            return  # publishing was cut off
        self.refuse_overlap(move)
        check_place_unless_ours(self._host, move)
        home = LazyHome(self._host, move)
        if self.held is None and home.daemon.running() is None:
            self._open_held(home)

    def _lives(self, move: TargetMove) -> bool:
        """Whether this host takes itself for the volume's home already, by this move."""
        entries = records.list_entries(self._host.directory)
        if not any(entry.lives and (entry.uuid, entry.path) == (move.uuid, move.path) for entry in entries):
            return False
        record = records.read_record(records.area_of(move.path, move.uuid))
        return record is None or record.epoch == move.epoch  # None: it was cut off in between

    def _open_held(self, home: LazyHome) -> None:
        staging = home.open_staging()
        self.held = HeldTree(staging)
        self._lazy_state = home.held_state(self.held)

    def receive(self, step: replicas.ReceiveManifest, conversation: Conversation) -> Arrived:
        """The step `ReceiveManifest`. RefusedError where an overlay cannot show what is in it."""
        move = self.load()
        if move is None or move.phase == PUBLISHED:
            raise RefusedError("nothing is being received", remedy="voltool move --status")
        home = LazyHome(self._host, move)
        if self.held is None or home.has_files():
            self.close()
            with home.daemon.controlled():
                home.daemon.stop()
            home.clear()
            if home.has_files():
                home.begin_anew()
            self._open_held(home)
        assert self.held is not None
        arrival = ManifestArrival(self.held)
        with contextlib.closing(arrival):
            while not isinstance(received := conversation.receive(), messages.EndOfData):
                if not isinstance(received, (bytes, bytearray, memoryview)):
                    raise AgentError("something else came where a manifest should", why=type(received).__name__)
                arrival.feed(received)
            entries = arrival.finish(step.state_id)
        self._refuse_unfit()
        self._lazy_state = arrival.state_id
        return Arrived(arrival.state_id, entries, 0)

    def _refuse_unfit(self) -> None:
        assert self.held is not None
        index = TreeIndex(os.path.join(self.held.staging.path, b"lazy"))
        for position in range(index.count):
            why = overlay.unfit(index.record(position))
            if why:
                path = index.path(position) if position != index.root else b"."
                raise RefusedError(
                    "the volume cannot be moved lazily",
                    where=shown(path),
                    why=why,
                    remedy="voltool move without --lazy",
                )

    def reach(self, step: replicas.ReachSources) -> replicas.SourcesReached:
        """The step `ReachSources`."""
        move = self.load()
        assert move is not None
        return sources_reached(self._host, move.move_id, step.sources)

    def fetch_from(self, step: FetchFrom) -> None:
        """The step `FetchFrom`."""
        move = self.load()
        assert move is not None
        reach_one(self._host, move.move_id, step.sources)
        home = LazyHome(self._host, move)
        home.save(
            HomeWishes(
                move.uuid,
                step.sources,
                step.bandwidth,
                step.timeout,
                step.lock_timeout,
                step.hooks,
                home.wishes().given,
            )
        )

    def apply_waiting(self) -> int:
        """There is nothing to apply."""
        return 0

    def get_ready(self) -> None:
        """There is nothing to put together."""

    def held_state(self) -> str:
        """See `TargetGround`."""
        return self._lazy_state

    def make_ready(self, move: TargetMove) -> TargetMove:
        """See `TargetGround`: the lazy mount stands, and its process runs; the path is kept."""
        self._free_path(move)
        self.close()
        home = LazyHome(self._host, dataclasses.replace(move, state_id=self._lazy_state))
        with home.daemon.controlled():
            fill.start(home, home.wishes())
        if not os.path.lexists(move.path):
            move = self._reserved(move)
        placeholder.keep(move)
        return move

    def publish(self, move: TargetMove) -> None:
        """See `TargetGround`. Repeatable."""
        home = LazyHome(self._host, move)
        assert move.epoch is not None
        record = VolumeRecord(
            uuid=move.uuid,
            name=move.name,
            path=move.path,
            driver=_DRIVER,
            epoch=move.epoch,
            sequence=move.sequence,
            excludes=move.excludes,
            created_ns=time.time_ns(),
        )
        beside = os.path.join(os.path.dirname(move.path), records.AREA_NAME, move.uuid.encode())
        durable.make_directory(beside)  # before anything is mounted at the path
        with home.daemon.controlled():
            running = home.daemon.running()
            if running is None or not running.ready:
                fill.start(home, home.wishes())
        if not overlay.is_mounted(move.path):
            overlay.mount(home.layers)
        records.create(self._host.directory, record)
        self._moves.archive_source(move.uuid, beside)

    def discard(self, move: TargetMove) -> None:
        """See `TargetGround`."""
        home = LazyHome(self._host, move)
        self.close()
        with home.daemon.controlled():
            home.daemon.remove()
        home.clear()
        remove_tree(home.place.directory)
        drop_identity(self._host, move.move_id)
        with contextlib.suppress(OSError):
            placeholder.let_go(move)
        if self._is_left(move.path):
            placeholder.seal(move.path)
        elif move.reserved:
            with contextlib.suppress(OSError):
                os.rmdir(move.path)


def check_place_unless_ours(host: HostState, move: TargetMove) -> None:
    """`check_place`, but where our overlay stands there already."""
    if move.phase != PUBLISHED and not overlay.is_mounted(move.path):
        check_place(host, move)
