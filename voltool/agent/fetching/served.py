"""The verbs ServeFiles and StopServing: what a host serves to a lazy replica elsewhere, and to whom. Ships to servers.

Who does it is a long-running process (`agent.fetching.serving`); its record says which tree, to whom, and where.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Optional

from voltool.agent.daemon import Daemon
from voltool.agent.fetching.keys import drop_identity, has_identity, kept_identity, serving_purpose
from voltool.agent.host import HostState
from voltool.agent.path.addresses import own_addresses
from voltool.agent.path.identity import Identity
from voltool.agent.path.listening import parse_ports
from voltool.agent.replica.out_place import OutPlace
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import AgentError, HostError, NotFoundError, RefusedError
from voltool.frozen import dataclass
from voltool.model import MOVED, RETIRED
from voltool.showing import shown
from voltool.volumes.moving.placeholder import stands_at
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.records import VolumeHome, list_entries, open_home
from voltool.volumes.registry import driver_named
from voltool.wire.codec import from_plain, to_plain
from voltool.wire.conversation import Conversation
from voltool.wire.doors import Door
from voltool.wire.messages import Done
from voltool.wire.moving import ReleaseRetired
from voltool.wire.serving import FilesServed, ServeFiles, StopServing

KIND = "serve"
CLONE, REPLICA, COPY = "clone", "replica", "retired"


@dataclass(frozen=True)
class ServeWishes:
    """What the process shall do: ``label`` names the clone (`CLONE`), ``peer`` is the certificate (DER) of whoever may come,
    ``port`` the one it had last time; ``door``: see `ServeFiles`."""

    uuid: str
    what: str
    peer: bytes
    ports: str
    label: str = ""
    port: int = 0
    door: Optional[Door] = None


class ServeBook:
    """What is kept of the serving to one replica."""

    def __init__(self, host: HostState, replica_id: str) -> None:
        self._host = host
        self._purpose = serving_purpose(replica_id)
        self.daemon = Daemon(host.directory, KIND, replica_id)

    def wishes(self) -> ServeWishes:
        """What is to be served; NotFoundError where nothing is."""
        plain = self.daemon.wishes()
        if plain is None:
            raise NotFoundError("nothing is served to that replica")
        wishes: ServeWishes = from_plain(ServeWishes, plain)
        return wishes

    def is_empty(self) -> bool:
        """Whether nothing is kept of it, and so nothing runs."""
        return self.daemon.wishes() is None and not has_identity(self._host, self._purpose)

    def save(self, wishes: ServeWishes) -> None:
        """Write it down."""
        self.daemon.save(to_plain(wishes))

    def identity(self) -> Identity:
        """Our key pair for this replica."""
        return kept_identity(self._host, self._purpose)

    def hear(self, host: HostState, message: object) -> bool:
        """What the peer says besides: whether it needs nothing any more."""
        if not isinstance(message, ReleaseRetired):
            return False
        let_go(host, message)
        return True

    def remove(self) -> None:
        """Serve no more; key and record go. Idempotent."""
        self.daemon.remove()
        drop_identity(self._host, self._purpose)

    def retire(self) -> None:
        """The same, from inside the process."""
        drop_identity(self._host, self._purpose)
        self.daemon.retire()


def serve_files(request: ServeFiles, conversation: Conversation, host: HostState) -> FilesServed:
    """Handle `ServeFiles`. What runs and is right goes on; else it is started anew."""
    del conversation
    parse_ports(request.ports)
    book = ServeBook(host, request.replica_id)
    with book.daemon.controlled():
        wishes = _wishes(request, host)
        os.close(open_tree(host, wishes))
        certificate = book.identity().certificate
        running = book.daemon.running()
        before = book.daemon.wishes()
        known = from_plain(ServeWishes, before) if before is not None else None
        if known is not None:
            wishes = dataclasses.replace(wishes, port=known.port)
            if request.door is None:
                wishes = dataclasses.replace(wishes, door=known.door)
        fault = running.facts.get("door", "") if running is not None else ""
        if running is None or not running.ready or known != wishes or not book.daemon.is_current():
            book.save(wishes)
            running = book.daemon.start(f"voltool: serves files to the replica {request.replica_id}")
            wishes = dataclasses.replace(wishes, port=int(running.facts["port"]))
            book.save(wishes)
    addresses = own_addresses(os.environ, loopback=True)
    return FilesServed(tuple(addresses), wishes.port, certificate, fault)


def stop_serving(request: StopServing, conversation: Conversation, host: HostState) -> Done:
    """Handle `StopServing`."""
    del conversation
    end_serving(host, request.replica_id)
    return Done()


def release_retired(request: ReleaseRetired, conversation: Conversation, host: HostState) -> Done:
    """Handle `ReleaseRetired`."""
    del conversation
    let_go(host, request)
    end_serving(host, request.move_id)
    return Done()


def let_go(host: HostState, released: ReleaseRetired) -> None:
    """The new home needs the copy that the volume left no more: it may be purged. Idempotent."""
    book = MoveBook(host.directory)
    move = book.source(released.uuid)
    if move is not None and move.move_id == released.move_id and move.lazy and move.phase in (MOVED, RETIRED):
        book.save_source(dataclasses.replace(move, lazy=False), os.path.dirname(move.retired_path))


def end_serving(host: HostState, replica_id: str) -> None:
    """Serve nothing to that replica any more; keys and records of it go. Idempotent. HostError where the process does not end."""
    book = ServeBook(host, replica_id)
    if not book.is_empty():
        with book.daemon.controlled():
            book.remove()


def open_tree(host: HostState, wishes: ServeWishes) -> int:
    """A descriptor of the root of what is served; the caller closes it. NotFoundError where it is gone for
    good; HostError where it cannot be reached, as when its file system is not mounted."""
    if wishes.what == CLONE:
        return _open_clone(host, wishes)
    if wishes.what == REPLICA:
        return _open_directory(_replica_path(host, wishes.uuid), "the replica")
    if wishes.what == COPY:
        return _open_copy(host, wishes.uuid)
    raise AgentError("that cannot be served", why=wishes.what)


def _open_copy(host: HostState, uuid: str) -> int:
    """Of a lazy move also before the switch: what is served then has to be right already."""
    move = MoveBook(host.directory).source(uuid)
    if move is None or not (move.phase == RETIRED or move.lazy):
        raise NotFoundError("the copy that the volume left is not on this host any more")
    away = move.phase in (MOVED, RETIRED) or (
        os.path.isdir(move.retired_path) and not stands_at(move.retired_path, move)
    )
    return _open_directory(move.retired_path if away else move.path, "the copy that the volume left")


def _wishes(request: ServeFiles, host: HostState) -> ServeWishes:
    label = ""
    if request.what == CLONE:
        home = open_home(host.directory, request.uuid, b"", moving=True, split=True)
        label = _kept_label(home, request.replica_id)
    door = request.door if request.door is not None and request.door.port else None
    return ServeWishes(request.uuid, request.what, request.peer, request.ports, label, door=door)


def _kept_label(home: VolumeHome, replica_id: str) -> str:
    """The clone that is kept for the replica."""
    clones = OutPlace(home.area, replica_id).clones(home, driver_named(home.record.driver))
    if not clones:
        raise RefusedError(
            "no clone of the volume is kept for the replica",
            where=shown(home.record.path),
            why="it was given up, or the volume's driver has no clones",
            remedy="voltool replica remove NAME HOST, then add it again",
        )
    return max(clones, key=lambda clone: clone.time_ns).label


def _open_clone(host: HostState, wishes: ServeWishes) -> int:
    try:
        home = open_home(host.directory, wishes.uuid, b"", moving=True, split=True)
    except NotFoundError as error:
        known = [entry for entry in list_entries(host.directory) if entry.uuid == wishes.uuid and not entry.forgotten]
        if not known:
            raise
        raise HostError(error.what, where=error.where, why=error.why, remedy=error.remedy) from None  # not mounted yet
    driver = driver_named(home.record.driver)
    clone = driver.find(home.record, wishes.label)
    if clone is None:
        raise NotFoundError("the clone that is served is not there any more", where=shown(home.record.path))
    return driver.open(clone)


def _replica_path(host: HostState, uuid: str) -> bytes:
    record = ReplicaBook(host.directory).find(uuid)
    if record is None:
        raise NotFoundError("this host has no replica of the volume (any more)")
    return record.path


def _open_directory(path: bytes, what: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{what} cannot be opened", where=shown(path), why=error.strerror or str(error)) from None
