"""Mount namespaces: those with processes, those that only a descriptor or a bind mount keeps, and acting inside one.

A namespace lives as long as a thread, a descriptor or a bind mount of its file holds it, so one without any process can come
back to life (``ip netns``, container runtimes). Ships to servers. Knows nothing of trees. Sources: namespaces(7), ioctl_ns(2),
setns(2) (only a process with one thread may change its mount namespace), unix(7) SCM_RIGHTS.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import sys
from typing import Callable, FrozenSet, Iterator, List, Optional, Sequence, Tuple

from voltool.errors import HostError
from voltool.frozen import dataclass
from voltool.volumes.mounts import Mount, parse_mountinfo

_CLONE_NEWNS = 0x20000
_NS_GET_NSTYPE = 0xB703
_PREFIX = b"mnt:["
_FAILED = b"!"
_TEXT = b"t"
_PIECE = 32768
_LARGEST = 65536

#: What a visitor tells: a text, and descriptors that go with it.
Message = Tuple[bytes, List[int]]
Tell = Callable[[bytes, Sequence[int]], None]


@dataclass(frozen=True)
class Namespace:
    """A mount namespace: its name (``mnt:[4026531841]``) and a path to its file. ``pid`` is a process in it, or one that
    keeps it by a descriptor; 0 where a bind mount at ``kept_at`` keeps it. ``inhabited``: a thread is in it."""

    name: bytes
    handle: bytes
    pid: int
    inhabited: bool = True
    kept_at: bytes = b""


class Visitor:
    """What a process may do that stands in another mount namespace, its root being that namespace's root."""

    def __init__(self, proc: int, tell: Tell) -> None:
        self._proc = proc
        self.tell = tell

    def mounts(self) -> List[Mount]:
        """All mounts of the namespace."""
        return parse_mountinfo(self.mountinfo())

    def mountinfo(self) -> bytes:
        """The same, as the kernel gives it; also what is out of sight of the namespace's processes."""
        with open(os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc), "rb") as file:
            return file.read()

    def open_root(self, mount: Mount) -> Optional[int]:
        """The root of a mount, None where the mount is covered by another one or hidden below it."""
        try:
            descriptor = os.open(mount.point, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        if self._mount_number(descriptor) == mount.number:
            return descriptor
        os.close(descriptor)
        return None

    def _mount_number(self, descriptor: int) -> int:
        with open(os.open(f"fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc), "rb") as file:
            return mount_number_in(file.read())


def mount_number_in(fdinfo: bytes) -> int:
    """The number of the mount that a descriptor is on, out of its fdinfo; -1 where it has none."""
    for line in fdinfo.split(b"\n"):
        if line.startswith(b"mnt_id:"):
            return int(line[7:])
    return -1


def inhabited_namespaces(pid: int) -> Iterator[Namespace]:
    """The namespaces of a process's threads, which mostly are one. PermissionError where we may not look."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(b"/proc/%d/task" % pid):
            handle = b"/proc/%d/task/%s/ns/mnt" % (pid, task)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield Namespace(os.readlink(handle), handle, pid)


def kept_by_descriptor(pid: int, handle: bytes, target: bytes, points: FrozenSet[bytes]) -> Optional[Namespace]:
    """The namespace that an open file of a process is; ``target`` is what it is called, ``points`` where namespaces are
    mounted: one that was opened there is called by that place, or ``/`` once it was unmounted."""
    name = target
    if target in points:
        with contextlib.suppress(OSError):
            status = os.stat(handle)
            if status.st_dev == os.stat("/proc/self/ns/mnt").st_dev and _is_mount_namespace(handle):
                name = _PREFIX + b"%d]" % status.st_ino
    return Namespace(name, handle, pid, inhabited=False) if name.startswith(_PREFIX) else None


def _is_mount_namespace(handle: bytes) -> bool:
    descriptor = os.open(handle, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNS
    finally:
        os.close(descriptor)


def kept_by_mounts(pid: int, mounts: Sequence[Mount]) -> Iterator[Namespace]:
    """The namespaces that are bind mounted where process ``pid`` sees it."""
    for mount in mounts:
        if mount.kind == "nsfs" and mount.root.startswith(_PREFIX):
            handle = b"/proc/%d/root%s" % (pid, mount.point)
            yield Namespace(mount.root, handle, 0, inhabited=False, kept_at=mount.point)


def open_namespace(namespace: Namespace) -> Optional[int]:
    """The namespace's file; None where the way there is gone or leads elsewhere by now."""
    with contextlib.suppress(OSError):
        descriptor = os.open(namespace.handle, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(descriptor)
        if status.st_dev == os.stat("/proc/self/ns/mnt").st_dev and namespace.name == _PREFIX + b"%d]" % status.st_ino:
            return descriptor
        os.close(descriptor)
    return None


def mounts_in(namespace: int) -> List[Mount]:
    """All mounts of an open namespace. HostError."""

    def act(visitor: Visitor) -> None:
        tell_text(visitor.tell, visitor.mountinfo())

    return parse_mountinfo(text_of(visit(namespace, act)))


def tell_text(tell: Tell, text: bytes) -> None:
    """Tell a text of any length."""
    for start in range(0, len(text), _PIECE):
        tell(_TEXT + text[start : start + _PIECE], ())


def text_of(messages: Sequence[Message]) -> bytes:
    """What `tell_text` told."""
    return b"".join(data[1:] for data, _descriptors in messages if data.startswith(_TEXT))


def visit(namespace: int, act: Callable[[Visitor], None]) -> List[Message]:
    """Do it in a child that has entered the namespace; what the child told. HostError where it failed.

    The descriptors among the messages are the caller's to close.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        _be_visitor(namespace, theirs, act)
    theirs.close()
    messages: List[Message] = []
    failure = b""
    with ours:
        while True:
            data, descriptors, _flags, _address = socket.recv_fds(ours, _LARGEST, 16, socket.MSG_CMSG_CLOEXEC)
            if not data:
                break
            if data.startswith(_FAILED):
                failure = data[1:]
            else:
                messages.append((data, descriptors))
    _pid, status = os.waitpid(child, 0)
    if failure or status != 0:
        for _data, descriptors in messages:
            for descriptor in descriptors:
                os.close(descriptor)
        why = failure.decode(errors="replace") or f"the child ended with status {status}"
        raise HostError("a mount namespace cannot be looked into", why=why)
    return messages


def _be_visitor(namespace: int, connection: socket.socket, act: Callable[[Visitor], None]) -> None:
    status = 1
    try:
        # Our own /proc, which the other namespace need not have.
        proc = os.open(b"/proc/%d" % os.getpid(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        sys.meta_path.clear()  # nothing is to be imported from what may be a container's files
        if libc.setns(namespace, _CLONE_NEWNS) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))  # noqa: TRY301 - the child's only way to say anything
        act(Visitor(proc, lambda data, descriptors: _send(connection, data, descriptors)))
        status = 0
    except BaseException as error:  # noqa: BLE001 - the child must not return into the parent's code
        with contextlib.suppress(OSError):
            connection.send(_FAILED + str(error).encode(errors="backslashreplace")[:4000])
    finally:
        os._exit(status)


def _send(connection: socket.socket, data: bytes, descriptors: Sequence[int]) -> None:
    if descriptors:
        socket.send_fds(connection, [data], list(descriptors))
    else:
        connection.send(data)
