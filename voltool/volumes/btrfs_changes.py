"""What differs between two btrfs snapshots, asked of the kernel: send without data, played by `delta`. Ships to servers.

Whatever is not certain gives None, and the caller scans and compares. Knows nothing of records or registries.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import Callable, Dict, FrozenSet, Iterator, List, Optional, Set, Tuple, TypeVar

from voltool.volumes import btrfs_ioctl as btrfs
from voltool.volumes.contract import ByteRange, Clone
from voltool.volumes.delta import Delta, Node, ranges_of
from voltool.volumes.send_stream import Command, Kind, SendStreamParser, UnexpectedStream

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = 1 << 18
_Answer = TypeVar("_Answer")


class SnapshotDelta:
    """The difference of two clones. ``inodes`` and ``timed`` are what `Changes` wants; ranges are known for files that were
    in both."""

    def __init__(
        self,
        base: Clone,
        clone: Clone,
        inodes: List[Tuple[int, bytes]],
        ranges: Dict[int, Optional[List[ByteRange]]],
        timed: FrozenSet[int],
    ) -> None:
        self.base = base
        self.clone = clone
        self.inodes = inodes
        self._ranges = ranges
        self.timed = timed

    def ranges(self, path: bytes) -> Optional[List[ByteRange]]:
        """The changed ranges of the regular file ``path`` of the clone; none for a file the stream did not name."""
        try:
            status = os.lstat(os.path.join(self.clone.path, path))
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return self._ranges.get(status.st_ino, [])


def compare_snapshots(base: Clone, clone: Clone, most_timed: int) -> Optional[SnapshotDelta]:
    """The delta from ``base`` to ``clone``, None where it cannot be had for certain, or of too many the times were set."""
    return _compared(base, clone, lambda comparison: comparison.run(most_timed))


def are_same(base: Clone, clone: Clone) -> bool:
    """Whether nothing at all differs, for certain: the kernel has nothing to send, not even a time."""
    return bool(_compared(base, clone, lambda comparison: comparison.is_empty()))


def _compared(base: Clone, clone: Clone, ask: Callable[[_Comparison], _Answer]) -> Optional[_Answer]:
    try:
        base_root = os.open(base.path, _OPEN)
    except OSError:
        return None
    try:
        clone_root = os.open(clone.path, _OPEN)
    except OSError:
        os.close(base_root)
        return None
    try:
        return ask(_Comparison(base, clone, base_root, clone_root))
    except (OSError, UnexpectedStream):
        return None
    finally:
        os.close(base_root)
        os.close(clone_root)


class _BaseByPath:
    """The base snapshot as `delta.BaseTree`."""

    def __init__(self, root: int) -> None:
        self._root = root

    def inode(self, path: bytes) -> Optional[int]:
        try:
            return os.stat(path, dir_fd=self._root, follow_symlinks=False).st_ino
        except (FileNotFoundError, NotADirectoryError):
            return None


class _Comparison:
    def __init__(self, base: Clone, clone: Clone, base_root: int, clone_root: int) -> None:
        self._base = base
        self._clone = clone
        self._base_root = base_root
        self._clone_root = clone_root

    def run(self, most_timed: int) -> SnapshotDelta:
        """What differs."""
        delta = Delta(_BaseByPath(self._base_root), btrfs.SUBVOLUME_ROOT_INODE, most_timed)
        for command in self._commands():
            delta.play(command)
        return self._resolve(delta)

    def is_empty(self) -> bool:
        """Whether the stream says nothing but whose it is."""
        return all(command.kind in (Kind.SNAPSHOT, Kind.END) for command in self._commands())

    def _commands(self) -> Iterator[Command]:
        old, new = btrfs.subvolume_info(self._base_root), btrfs.subvolume_info(self._clone_root)
        # The kernel takes any parent silently; ours are snapshots of one and the same subvolume.
        if (old.uuid, new.uuid) != (self._base.uuid, self._clone.uuid) or old.parent_uuid != new.parent_uuid:
            raise UnexpectedStream("the parent is not ours")
        parser = SendStreamParser()
        for data in _stream(self._clone_root, old.tree):
            yield from parser.feed(data)
        parser.finish()

    def _resolve(self, delta: Delta) -> SnapshotDelta:
        inodes: Dict[int, bytes] = {}
        ranges: Dict[int, Optional[List[ByteRange]]] = {}
        timed: Set[int] = set()
        for node in delta.changed():
            found = self._current(node, delta.path(node))
            if found is None:
                continue
            path, status = found
            inodes[node.inode] = path
            if not node.changed:
                timed.add(node.inode)
            if stat.S_ISREG(status.st_mode):
                ranges[node.inode] = None if node.base is None else self._ranges(node, node.base, status)
        return SnapshotDelta(self._base, self._clone, sorted(inodes.items()), ranges, frozenset(timed))

    def _current(self, node: Node, path: Optional[bytes]) -> Optional[Tuple[bytes, os.stat_result]]:
        """Where the object stands in the newer snapshot; None: nowhere. What the picture says is checked."""
        if path is not None:
            status = self._stat(self._clone_root, path)
            if status is None or status.st_ino != node.inode:
                raise UnexpectedStream("the picture of the newer snapshot is wrong")
            return path, status
        for candidate in btrfs.inode_paths(self._clone_root, node.inode):
            status = self._stat(self._clone_root, candidate)
            if status is not None and status.st_ino == node.inode:
                return candidate, status
        return None

    def _ranges(self, node: Node, base_path: bytes, status: os.stat_result) -> Optional[List[ByteRange]]:
        old = self._stat(self._base_root, base_path)
        if old is None or not stat.S_ISREG(old.st_mode):
            return None
        return ranges_of(node, old.st_size, status.st_size)

    @staticmethod
    def _stat(root: int, path: bytes) -> Optional[os.stat_result]:
        try:
            return os.stat(path or b".", dir_fd=root, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _stream(snapshot: int, parent_tree: int) -> Iterator[bytes]:
    """The send stream, written by a thread into a pipe: the ioctl blocks until all is read."""
    reader, writer = os.pipe()
    failures: List[OSError] = []

    def send() -> None:
        try:
            btrfs.send_without_data(snapshot, parent_tree, writer)
        except OSError as error:
            failures.append(error)
        finally:
            os.close(writer)

    thread = threading.Thread(target=send, name="btrfs-send", daemon=True)
    thread.start()
    try:
        while True:
            data = os.read(reader, _READ)
            if not data:
                break
            yield data
    finally:
        os.close(reader)  # a sender that is still at it gets EPIPE
        thread.join()
    if failures:
        raise failures[0]
