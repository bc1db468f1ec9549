"""The host of one replica, killed at a chosen operation: its real code, on a real file system, against dumps recorded beforehand.

Each run is a child of the test that is in a session (of processes) of its own; its *points* are the operations that change names,
mounts or subvolumes. Before one of them all of it is killed.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.replica.rig import Replica
from voltool.agent.host import HostState
from voltool.agent.replica import guard
from voltool.agent.replica.into import replica_in
from voltool.model import Epoch
from voltool.volumes import btrfs_ioctl
from voltool.volumes.lock import mounting
from voltool.wire import messages, moving, replicas

#: What is a point, by module.
POINTS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (os, ("rename", "link", "unlink", "mkdir", "rmdir", "symlink")),
    (mounting, ("bind", "remount", "detach")),
    (btrfs_ioctl, ("create_subvolume", "create_writable_snapshot", "set_read_only", "destroy_subvolume")),
    (guard, ("exchange", "protect", "unprotect")),
)
_DONE, _FAILED = 0, 1


@dataclass
class Recorded:
    """Dumps of a volume, each made against the state before it, and what the volume was then."""

    states: list[str] = field(default_factory=list)
    streams: list[list[bytes]] = field(default_factory=list)
    trees: list[dict[str, object]] = field(default_factory=list)

    def of(self, tree: dict[str, object]) -> int:
        """Which state a tree is of; -1: none, which is a mix."""
        return self.trees.index(tree) if tree in self.trees else -1


class Recording:
    """A `Sink` that keeps what comes, and passes it on."""

    direct = False

    def __init__(self, sink: Any, recorded: Recorded) -> None:
        self._sink = sink
        self._recorded = recorded

    def attend(self, timeout: float) -> bool:
        return bool(self._sink.attend(timeout))

    def open(self) -> None:
        self._recorded.streams.append([])
        self._sink.open()

    def feed(self, data: bytes) -> None:
        self._recorded.streams[-1].append(bytes(data))
        self._sink.feed(data)

    def close(self) -> str:
        return str(self._sink.close())


def record(replica: Replica, changes: list[Callable[[Path], None]]) -> Recorded:
    """Carry out each change, and keep what a sync after it sends."""
    recorded = Recorded()
    for change in changes:
        change(replica.rig.path)
        with replica.source() as source, replica.session() as session:
            brought = source.dump(session.held, session.manifest, Recording(session, recorded))
            session.swap(brought)
            source.keep(brought.state_id)
        recorded.states.append(brought.state_id)
        recorded.trees.append(tree_of(replica.rig.path))
    replica.remove(purge=True)
    return recorded


def tree_of(root: Path) -> dict[str, object]:
    """All that a reader sees of a tree: types, modes, times, contents, xattrs."""
    found: dict[str, object] = {}
    for directory, _below, names in os.walk(root):
        for path in [directory, *(os.path.join(directory, name) for name in names)]:
            status = os.lstat(path)
            content: object = ""
            if stat.S_ISREG(status.st_mode):
                content = Path(path).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            }
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_mtime_ns, content, xattrs)
    return found


class Puppet:
    """The command line's end of a conversation with the replica's host: it brings the replica to the state ``goal``."""

    def __init__(self, recorded: Recorded, goal: int, *, remove: bool = False) -> None:
        self._recorded = recorded
        self._goal = goal
        self._remove = remove
        self._begun = False
        self._steps: collections.deque[Any] = collections.deque()

    def send(self, message: Any) -> None:
        if isinstance(message, replicas.ReplicaStatus) and not self._begun:
            self._begun = True
            self._plan(message.held)

    def _plan(self, held: str) -> None:
        if self._remove:
            self._steps += [replicas.RemoveReplica(purge=True), replicas.EndReplica()]
            return
        at = self._recorded.states.index(held) if held else -1
        if at == self._goal:
            self._steps.append(self._swap(at))
        for number in range(at + 1, self._goal + 1):
            self._steps += [moving.ReceiveDump(workers=1), *self._recorded.streams[number], messages.EndOfData()]
            self._steps.append(self._swap(number))
        self._steps.append(replicas.EndReplica())

    def _swap(self, number: int) -> replicas.SwapReplica:
        return replicas.SwapReplica(self._recorded.states[number], Epoch(1, "t", "h"), number + 1, number)

    def receive(self) -> Any:
        return self._steps.popleft()

    def send_data(self, data: Any) -> None:
        raise AssertionError("nobody asked for data")

    def report(self, event: Any) -> None:
        """Nobody listens."""


def run(replica: Replica, puppet: Puppet, *, kill_at: int = -1, begin: bool = True) -> bool:
    """One session with the replica's host; whether it came to its end. AssertionError where it failed by itself."""
    child = os.fork()
    if child == 0:
        os.setsid()
        status = _FAILED
        try:
            if kill_at >= 0:
                _arm(kill_at)
            host = HostState(os.fsencode(replica.state), "replica", "m", "b")
            replica_in(replicas.ReplicaIn(replica.wish(), begin), puppet, host)
            status = _DONE
        except BaseException:  # noqa: BLE001 - the child must not return into the test
            if kill_at < 0:
                traceback.print_exc()
                sys.stderr.flush()
        os._exit(status)
    _pid, status = os.waitpid(child, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if kill_at < 0:
        assert status == _DONE, "a session that nobody killed has failed"
    return status == _DONE


def _arm(kill_at: int) -> None:
    seen = 0

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def point(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            if seen == kill_at:
                os.killpg(0, signal.SIGKILL)
            seen += 1
            return real(*arguments, **options)

        return point

    for module, names in POINTS:
        for name in names:
            setattr(module, name, wrapped(getattr(module, name)))


def wipe(replica: Replica) -> None:
    """Nothing of the replica is left, whatever state it was in."""
    replica.free()
    for path in (replica.path, replica.place, replica.state):
        for subvolume in (path, path / "next", path / "previous", path / "dropped"):
            if subvolume.exists() and os.lstat(subvolume).st_ino == btrfs_ioctl.SUBVOLUME_ROOT_INODE:
                subprocess.run(["btrfs", "-q", "subvolume", "delete", str(subvolume)], check=True)
        if path.exists():
            shutil.rmtree(path)
