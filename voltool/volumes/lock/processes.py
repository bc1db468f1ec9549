"""Which processes hold something of a tree through which they could write. Ships to servers.

Looked at: descriptors, working and root directories of every thread, and shared maps of files opened for writing (such a
map becomes writable by mprotect). Sources: proc(5), mm/mmap.c.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import Dict, FrozenSet, Iterator, List, Optional, Tuple

from voltool.frozen import dataclass
from voltool.volumes.lock.namespaces import mount_number_in
from voltool.volumes.lock.tables import process_ids, tables
from voltool.volumes.lock.views import Tree, Views, join
from voltool.volumes.mounts import Mount, is_within

Identity = Tuple[int, int]

_CONTAINER = re.compile(r"[0-9a-f]{64}")
#: Deeper than any path can be (PATH_MAX).
_DEEPEST = 4096


@dataclass(frozen=True)
class Writer:
    """One who could still write: ``pid`` is 0 for the kernel itself (nfsd, loop devices). ``how`` says by what means."""

    pid: int
    command: str
    container: str
    path: bytes
    how: str


@dataclass(frozen=True)
class ProcessSearch:
    """What was found; ``unexamined`` are processes that we may not look into."""

    writers: Tuple[Writer, ...]
    unexamined: Tuple[int, ...]


class ProcessFinder:
    """Looks for writers of ``tree``. ``busy`` are identities of files that somebody has open for writing, for certain."""

    def __init__(self, tree: Tree, views: Views, busy: FrozenSet[Identity] = frozenset()) -> None:
        self._tree = tree
        self._mounts = views.by_number()
        self._busy = busy

    def find(self, ignored: FrozenSet[int] = frozenset()) -> ProcessSearch:
        """All writers among the processes but this one and ``ignored``."""
        writers: List[Writer] = []
        unexamined: List[int] = []
        for pid in process_ids():
            if pid == os.getpid() or pid in ignored:
                continue
            try:
                held = dict.fromkeys([*self._held(pid), *self._mapped(pid)])
            except PermissionError:
                unexamined.append(pid)
                continue
            writers += [describe(pid, path, how) for path, how in held]
        return ProcessSearch(tuple(writers), tuple(unexamined))

    def _held(self, pid: int) -> Iterator[Tuple[bytes, str]]:
        for directory, files, places in tables(pid):
            for name in places:
                yield from self._look(
                    f"{directory}/{name}", {"cwd": "working directory", "root": "root directory"}[name]
                )
            for name in files:
                yield from self._look(f"{directory}/fd/{name}", f"descriptor {name}")

    def _look(self, link: str, how: str) -> Iterator[Tuple[bytes, str]]:
        try:
            if not os.readlink(os.fsencode(link)).startswith(b"/"):
                return  # a socket, a pipe
            descriptor = os.open(link, os.O_PATH | os.O_CLOEXEC)
        except PermissionError:
            raise
        except OSError:
            return
        try:
            path = self._writable(descriptor, link)
        finally:
            os.close(descriptor)
        if path is not None:
            yield path, how

    def _writable(self, descriptor: int, link: str) -> Optional[bytes]:
        status = os.fstat(descriptor)
        path = os.readlink(b"/proc/self/fd/%d" % descriptor)
        if stat.S_ISDIR(status.st_mode):
            mount = self._mounts.get(_mount_number(descriptor))
            if mount is not None and ("ro" in mount.options or "ro" in mount.super_options):
                return None
            if not holds_directory(self._tree, descriptor, self._mounts):
                return None
            return None if mount is None and os.fstatvfs(descriptor).f_flag & os.ST_RDONLY else path
        if not stat.S_ISREG(status.st_mode) or not _opened_for_writing(link):
            return None
        identity = (status.st_dev, status.st_ino)
        inside = status.st_nlink > 0 and self._inner_holds(descriptor, path)
        return path if inside or identity in self._busy else None

    def _inner_holds(self, descriptor: int, path: bytes) -> bool:
        return _holds_by_name(self._tree, path, self._mounts.get(_mount_number(descriptor)))

    def _mapped(self, pid: int) -> Iterator[Tuple[bytes, str]]:
        for area in _shared_maps(pid):
            link = f"/proc/{pid}/map_files/{area}"
            try:
                if not os.lstat(link).st_mode & stat.S_IWUSR:
                    continue  # the file behind it was opened read-only: mprotect cannot make it writable
                descriptor = os.open(link, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                status = os.fstat(descriptor)
                path = os.readlink(b"/proc/self/fd/%d" % descriptor)
                inside = status.st_nlink > 0 and self._inner_holds(descriptor, path)
                if inside or (status.st_dev, status.st_ino) in self._busy:
                    yield path, "shared map"
            finally:
                os.close(descriptor)


def describe(pid: int, path: bytes, how: str) -> Writer:
    """A writer with what can be said of the process."""
    command = container = ""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
        command = file.read().rstrip("\n")
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
        container = container_of(file.read())
    return Writer(pid, command, container, path, how)


def container_of(cgroup: str) -> str:
    """The container's id (12 digits, as docker and podman show it) out of a process's cgroup file, or empty."""
    match = _CONTAINER.search(cgroup)
    return match[0][:12] if match else ""


def holds_directory(tree: Tree, descriptor: int, mounts: Dict[int, Mount]) -> bool:
    """Whether an open directory is the tree's root or lies below it, on whatever mount."""
    mount = mounts.get(_mount_number(descriptor))
    if mount is not None and mount.device != tree.device:
        return False
    if _holds_by_name(tree, os.readlink(b"/proc/self/fd/%d" % descriptor), mount):
        return True
    return mount is None and _holds_by_ancestry(tree, descriptor)


def _holds_by_name(tree: Tree, path: bytes, mount: Optional[Mount]) -> bool:
    if mount is None:
        return is_within(path, tree.path)
    if mount.device != tree.device or not is_within(path, mount.point):
        return False
    return tree.holds(join(mount.root, path[len(mount.point.rstrip(b"/")) :]))


def _holds_by_ancestry(tree: Tree, descriptor: int) -> bool:
    """For a mount that no namespace has any more: up by `..` to the tree's root or the end."""
    current = os.dup(descriptor)
    try:
        before: Optional[Identity] = None
        for _step in range(_DEEPEST):
            status = os.fstat(current)
            identity = (status.st_dev, status.st_ino)
            if identity == tree.identity:
                return True
            if identity == before:
                return False
            before = identity
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = above
    except OSError:
        return False
    finally:
        os.close(current)
    return False


def _mount_number(descriptor: int) -> int:
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        return mount_number_in(file.read())


def _opened_for_writing(link: str) -> bool:
    """Of a descriptor's link, whose owner's bits say how it was opened; a working directory's say nothing."""
    try:
        return bool(os.lstat(link).st_mode & stat.S_IWUSR)
    except OSError:
        return False


def _shared_maps(pid: int) -> List[str]:
    """The address ranges that are shared maps of files."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return parse_shared_maps(text)


def parse_shared_maps(text: bytes) -> List[str]:
    """The address ranges of shared maps of files, out of /proc/PID/maps."""
    found = []
    for line in text.split(b"\n"):
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[1][3:4] == b"s" and fields[5].startswith(b"/"):
            start, end = (int(part, 16) for part in fields[0].split(b"-"))
            found.append(f"{start:x}-{end:x}")
    return found
