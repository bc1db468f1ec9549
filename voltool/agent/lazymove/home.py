"""A lazy move's new home on its host: where its parts lie, what is written down of it, and mounting it. Ships to servers.

Everything lies in the replica's place (`agent.replica.place`): ``lower`` (the lazy mount), ``upper`` and ``work`` of the overlay,
the staging of what has come, ``next`` when all has, ``states`` from then on. The move's record decides: while it is lazy and
published the overlay stands at the path.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Optional, Tuple

from voltool import durable
from voltool.agent.daemon import Daemon
from voltool.agent.fetching.keys import drop_identity
from voltool.agent.host import HostState
from voltool.agent.lazy import saved
from voltool.agent.lazy.arriving import open_index
from voltool.agent.lazy.index import TreeIndex
from voltool.agent.lazy.mounted import clear_mounts
from voltool.agent.lazy.store import INDEX, Store
from voltool.agent.lazymove import overlay
from voltool.agent.lazymove.folding import FoldPlace
from voltool.agent.lazymove.overlay import Layers
from voltool.agent.replica.place import ReplicaPlace
from voltool.errors import HostError, RefusedError
from voltool.frozen import dataclass
from voltool.model import NO_HOOKS, PUBLISHED, Hooks, TargetMove
from voltool.showing import shown
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.staging import Staging, StagingKey, open_staging, staging_path
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.records import AREA_NAME
from voltool.volumes.removal import remove_tree
from voltool.wire.codec import from_plain, to_plain
from voltool.wire.replicas import FetchSource

#: The kind of its long-running process (`agent.lazymove.homing`).
KIND = "home"


@dataclass(frozen=True)
class HomeWishes:
    """What the process shall do for the volume ``uuid``: see `wire.moving.FetchFrom`. ``given``: directories on this host."""

    uuid: str
    sources: Tuple[FetchSource, ...] = ()
    bandwidth: int = 0
    timeout: int = 30
    lock_timeout: int = 30
    hooks: Hooks = NO_HOOKS
    given: Tuple[bytes, ...] = ()


class LazyHome:
    """The new home that ``move`` leads to."""

    def __init__(self, host: HostState, move: TargetMove) -> None:
        self.host = host
        self.move = move
        self.place = ReplicaPlace(move.path, move.uuid)
        self.daemon = Daemon(host.directory, KIND, move.move_id)
        directory = self.place.directory
        self.layers = Layers(
            os.path.join(directory, b"lower"),
            os.path.join(directory, b"upper"),
            os.path.join(directory, b"work"),
            move.path,
        )
        self.folded = FoldPlace(self.layers.upper, self.place.next, directory)

    @property
    def status_file(self) -> bytes:
        """Where the process says how far it is."""
        return os.path.join(self.place.directory, b"status")

    def wishes(self) -> HomeWishes:
        """What is written down for the process."""
        plain = self.daemon.wishes()
        if plain is None:
            return HomeWishes(self.move.uuid)
        wishes: HomeWishes = from_plain(HomeWishes, plain)
        return wishes

    def save(self, wishes: HomeWishes) -> None:
        """Write it down."""
        self.daemon.save(to_plain(wishes))

    def version(self) -> int:
        """Another number when something else was written down for the process."""
        try:
            return os.stat(self.daemon.path(b".json")).st_mtime_ns
        except FileNotFoundError:
            return 0

    def current(self) -> Optional[TargetMove]:
        """The move's record as it is now; None where it is another one's, or gone."""
        move = MoveBook(self.host.directory).target(self.move.uuid)
        return move if move is not None and move.move_id == self.move.move_id else None

    # -------------------------------------------------------------------------------------------------------- staging

    def key(self) -> StagingKey:
        """Of the staging."""
        return StagingKey(self.place.next, self.move.uuid, "", f"move {self.move.move_id}")

    def has_staging(self) -> bool:
        """Whether there is one."""
        return os.path.isdir(self.staging)

    @property
    def staging(self) -> bytes:
        """Where the staging is, if it is there."""
        return staging_path(self.key(), os.path.join(os.path.dirname(self.place.next), AREA_NAME))

    def has_files(self) -> bool:
        """Whether any of the volume's files may have come."""
        return os.path.lexists(self.place.next) or os.path.lexists(os.path.join(self.staging, saved.NAME))

    def begin_anew(self) -> None:
        """What has come goes: another manifest comes, and what it does not name must not be left among the files. While nothing
        runs or is mounted. Idempotent."""
        for path in (self.staging, self.place.next, self.place.states):
            remove_tree(path)

    def open_staging(self) -> Staging:
        """Make or find it. BusyError where the process uses it."""
        self.place.make()
        return open_staging(self.key(), into_existing=False)

    def held_state(self, held: HeldTree) -> str:
        """The state whose manifest has come; empty: none."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            return TreeIndex(os.path.join(held.staging.path, INDEX)).state_id
        return ""

    def open_store(self, held: HeldTree) -> Store:
        """HostError where the manifest is not there."""
        index = open_index(held, self.move.state_id or self.held_state(held))
        if index is None:
            raise HostError(
                "the manifest of the volume is not there",
                where=shown(held.staging.path),
                remedy=f"voltool move --status {self.move.name}",
            )
        return Store(held, index)

    def keep_states(self, held: HeldTree) -> None:
        """Before the tree gets its name, and the staging goes: the manifest and its stamps stay. Repeatable."""
        source, target = os.fsdecode(held.keeper.directory), os.fsdecode(self.place.states)
        for stale in (target, target + ".new"):
            shutil.rmtree(stale, ignore_errors=True)
        shutil.copytree(source, target + ".new", copy_function=os.link)
        os.rename(target + ".new", target)
        durable.fsync_directory(self.place.directory)

    def is_whole(self) -> bool:
        """Whether all files have come, and stand in their tree."""
        return os.path.isdir(self.place.next) and not self.has_staging()

    # --------------------------------------------------------------------------------------------------------- mounts

    def make_lower(self) -> None:
        """Where the lazy mount will be."""
        clear_mounts(self.layers.lower)
        durable.make_directory(self.layers.lower)

    def prepare_layers(self) -> None:
        """The upper directory, with the root's attributes. Needs the lazy mount."""
        overlay.prepare(self.layers)

    def show(self) -> None:
        """Let the overlay stand at the path, if it is to and does not. Idempotent. HostError."""
        move = self.current()
        if move is None or not move.lazy or move.phase != PUBLISHED or overlay.is_mounted(self.layers.path):
            return
        overlay.mount(self.layers)

    def show_anew(self) -> None:
        """What was mounted below is another mount by now."""
        overlay.unmount(self.layers.path)
        self.show()

    def clear(self) -> None:
        """Take all mounts off. Idempotent."""
        overlay.unmount(self.layers.path)
        clear_mounts(self.layers.lower)


def lazy_home_of(host: HostState, uuid: str) -> Optional[LazyHome]:
    """The lazy move that brings, or has brought, the volume here and has not ended; None: there is none."""
    move = MoveBook(host.directory).target(uuid)
    return LazyHome(host, move) if move is not None and move.lazy else None


def refuse_lazy(host: HostState, uuid: str) -> None:
    """RefusedError while not all of the volume is here: it can leave, or be given up, only whole."""
    home = lazy_home_of(host, uuid)
    if home is not None and home.move.phase == PUBLISHED:
        raise RefusedError(
            "the volume has not come completely",
            where=shown(home.move.path),
            why=f"its lazy move from {home.move.source.host} is still being filled",
            remedy=f"voltool move --status {home.move.name} says how far it is; it ends by itself",
        )


def let_go(home: LazyHome) -> None:
    """What a lazy move that has ended needs no more goes: its directory, its key. Idempotent."""
    if lazy_home_of(home.host, home.move.uuid) is None:
        remove_tree(home.place.directory)
    drop_identity(home.host, home.move.move_id)
