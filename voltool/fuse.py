"""The one module that knows libfuse, through mfusepy: which library, which options, and what mfusepy lacks.

libfuse 3 is taken where it is, else libfuse 2. Knows nothing of volumes; what is mounted comes as operations. Part of what is
shipped to servers, mfusepy with it. Sources: fuse(4), mount.fuse3(8), libfuse's include/fuse.h and fuse_common.h.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import re
import shutil
import signal
import threading
from typing import Any, Callable, Dict, Optional

from voltool.errors import HostError
from voltool.frozen import dataclass
from voltool.showing import shown

#: What a mount shows never changes, but for what its operations say by other means; so long the kernel believes it.
_CACHED_SECONDS = 3600
#: linux/fuse.h and fuse_common.h: the kernel checks ACLs, not modes alone.
#: fuse.h: enum fuse_readdir_flags and fuse_fill_dir_flags.
_READDIR_PLUS, _FILL_PLUS = 1 << 0, 1 << 1
_CAP_POSIX_ACL = 1 << 19
#: How many of libfuse 3's threads there are at most; none ends because it is idle.
_THREADS = 16
_DEVICE = "/dev/fuse"
#: libfuse 3 by the name that its package gives it, for hosts where ctypes does not find it (no ldconfig, no compiler).
_LIBRARIES = ("libfuse3.so.3", "libfuse3.so.4")


@dataclass(frozen=True)
class MountSettings:
    """``name`` is what /proc/mounts shows as the source, ``subtype`` as the type, after ``fuse.``. ``allow_other``: other users
    may look, as far as modes and ACLs let them. ``trusted``: what is mounted is as good as a directory of this host: devices and
    setuid programs work. ``max_readahead``: bytes that the kernel reads ahead, 0: its default. ``signals``: SIGTERM, SIGINT and
    SIGHUP unmount it; else they do what they did before."""

    name: str
    subtype: str
    allow_other: bool = False
    trusted: bool = False
    max_readahead: int = 0
    signals: bool = True


def load() -> Any:
    """The module mfusepy on the best library there is; HostError where there is none, or no /dev/fuse."""
    if not os.path.exists(_DEVICE):
        raise HostError("nothing can be mounted here", where=_DEVICE, why="it does not exist", remedy="modprobe fuse")
    if not os.environ.get("FUSE_LIBRARY_NAME") and not os.environ.get("FUSE_LIBRARY_PATH"):
        _choose_library()
    try:
        import mfusepy
    except (OSError, AttributeError) as error:
        raise HostError(
            "libfuse is missing",
            why=str(error),
            remedy="apt install fuse3 (Debian, Ubuntu), dnf install fuse3 (Fedora and kin), zypper install fuse3 (SUSE)",
        ) from None
    return mfusepy


def _choose_library() -> None:
    """Let mfusepy, which asks the environment, take libfuse 3 where it is."""
    if os.geteuid() != 0 and not shutil.which("fusermount3"):
        return  # whoever is not root mounts through that program
    if ctypes.util.find_library("fuse3"):
        os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
        return
    if ctypes.util.find_library("fuse"):
        return
    for name in _LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        os.environ["FUSE_LIBRARY_PATH"] = name
        return


def serve(operations: Any, mountpoint: bytes, settings: MountSettings, on_ready: Callable[[], None]) -> None:
    """Mount ``operations`` (called as mfusepy calls them) at ``mountpoint`` and answer until it is unmounted, or a signal ends
    it (see `MountSettings`).

    Blocks. ``on_ready`` is called when the kernel has mounted it. Raises HostError where it cannot be mounted. To be called in
    the main thread: libfuse handles the signals.
    """
    mfusepy = load()
    if settings.allow_other and mfusepy.fuse_version_major < 3:
        raise HostError(
            "a mount that others may use needs libfuse 3",
            why="with libfuse 2 the kernel would check modes but no ACLs",
            remedy="apt install fuse3",
        )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if settings.signals else ():
        signal.signal(number, signal.SIG_DFL)  # libfuse takes over only what nobody else has taken
    messages = _Messages()
    try:
        _binding(mfusepy, messages, on_ready, settings)(
            operations, os.fsdecode(mountpoint), **_options(mfusepy, settings)
        )
    except RuntimeError:
        if messages.ended:  # it was mounted; so libfuse 3 says that a signal has ended it
            return
        raise HostError(
            "it cannot be mounted",
            where=shown(mountpoint),
            why=messages.text() or "libfuse does not say why",
            remedy="root, or, for other users, fusermount3 of the package fuse3" + _remedy(settings),
        ) from None
    finally:
        messages.end()


def _options(mfusepy: Any, settings: MountSettings) -> Dict[str, Any]:
    """As mount.fuse3(8) has them."""
    options: Dict[str, Any] = {
        "foreground": True,
        # The name may be anybody's; a comma would begin the next option.
        "fsname": "voltool:" + re.sub(r"[^A-Za-z0-9._-]", "_", settings.name),
        "subtype": settings.subtype,
        "ro": True,
        "use_ino": True,
        "kernel_cache": True,
        "entry_timeout": _CACHED_SECONDS,
        "attr_timeout": _CACHED_SECONDS,
    }
    options.update({"dev": True, "suid": True} if settings.trusted else {"nodev": True, "nosuid": True})
    if mfusepy.fuse_version_major >= 3:
        options["max_idle_threads"] = _THREADS
    if (mfusepy.fuse_version_major, mfusepy.fuse_version_minor) >= (3, 12):
        options["max_threads"] = _THREADS
    if settings.allow_other:
        options.update({"allow_other": True, "default_permissions": True})
    return options


def _remedy(settings: MountSettings) -> str:
    return " and user_allow_other in /etc/fuse.conf" if settings.allow_other and os.geteuid() else ""


class _Messages:
    """What libfuse writes to stderr before it is mounted: it has no other way to say why it cannot.

    ``ended``: it is mounted, or has failed.
    """

    def __init__(self) -> None:
        # In memory: a host whose /tmp is full or read-only mounts all the same.
        self._file = os.memfd_create("voltool-messages")
        self._before = os.dup(2)
        os.dup2(self._file, 2)
        self.ended = False

    def text(self) -> str:
        """All of it, in one line."""
        text = os.pread(self._file, 4096, 0).decode(errors="replace")
        return "; ".join(line.strip() for line in text.splitlines() if line.strip())

    def end(self) -> None:
        """From now on stderr is again what it was; idempotent."""
        if not self.ended:
            self.ended = True
            os.dup2(self._before, 2)
            os.close(self._before)
            os.close(self._file)


def _binding(mfusepy: Any, messages: _Messages, on_ready: Callable[[], None], settings: MountSettings) -> Any:
    """The class of mfusepy with what it lacks: see `_extended`; ACLs, and a word when the kernel has mounted it."""
    threads = threading.local()
    # Else ctypes makes and destroys a thread state of Python's in each call, which costs nearly as much as the call itself. With
    # libfuse 2, whose threads come and go, those that are kept would pile up.
    stay = mfusepy.fuse_version_major >= 3

    class Binding(_extended(mfusepy)):  # type: ignore[misc]
        """It keeps Python's threads, and says when it is mounted."""

        def _wrapper(self, func: Any, *args: Any, **kwargs: Any) -> Any:
            """Any operation, in one of libfuse's threads: the first one there lets Python keep what it knows of the thread."""
            if stay and not hasattr(threads, "known"):
                threads.known = ctypes.pythonapi.PyGILState_Ensure()
            return super()._wrapper(func, *args, **kwargs)

        def init_fuse_2(self, connection: Any) -> None:
            """Mounted."""
            super().init_fuse_2(connection)
            messages.end()
            on_ready()

        def init_fuse_3(self, connection: Any, config: Any) -> None:
            """Mounted; where others may look the kernel is asked to check ACLs."""
            _ask_kernel(connection.contents, settings)
            super().init_fuse_3(connection, config)
            messages.end()
            on_ready()

    return Binding


def _extended(mfusepy: Any) -> Any:
    """mfusepy.FUSE with operations that it lacks, or does slowly."""

    class Extended(mfusepy.FUSE):  # type: ignore[misc]
        """mfusepy.FUSE and a little more."""

        def fgetattr(self, path: Optional[bytes], buffer: Any, info: Any) -> int:
            """stat(2)."""
            if not hasattr(self.operations, "stat_into"):
                return int(super().fgetattr(path, buffer, info))
            text = None if path is None else path.decode(self.encoding, self.errors)
            return _stat_into(self.operations, text, buffer, info)

        def readdir_fuse_3(
            self, path: Optional[bytes], buffer: Any, filler: Any, offset: int, info: Any, flags: int
        ) -> int:
            """getdents(2), with all attributes where the kernel wants them and the operations can."""
            if not (flags & _READDIR_PLUS and hasattr(self.operations, "entries_into")):
                return int(super().readdir_fuse_3(path, buffer, filler, offset, info, flags))
            return _entries_into(self.operations, buffer, filler, offset, info.contents.fh, mfusepy.c_stat())

        def lseek(self, path: Optional[bytes], offset: int, whence: int, info: Any) -> int:
            """SEEK_DATA, SEEK_HOLE (libfuse 3)."""
            text = None if path is None else path.decode(self.encoding, self.errors)
            return int(self.operations.lseek(text, offset, whence, info.contents.fh))

    return Extended


def _ask_kernel(connection: Any, settings: MountSettings) -> None:
    if settings.allow_other and connection.capable & _CAP_POSIX_ACL:
        connection.want |= _CAP_POSIX_ACL
    if settings.max_readahead:
        connection.max_readahead = settings.max_readahead


def _stat_into(operations: Any, path: Optional[str], buffer: Any, info: Any) -> int:
    """Operations that have ``stat_into`` fill libfuse's structure themselves, which is several times quicker."""
    ctypes.memset(buffer, 0, ctypes.sizeof(buffer.contents))
    operations.stat_into(path, info.contents.fh if info else None, buffer.contents)
    return 0


def _entries_into(operations: Any, buffer: Any, filler: Any, offset: int, handle: int, status: Any) -> int:
    """Operations that have ``entries_into`` give each name with all that stat(2) says of it, from ``offset`` on: the kernel need
    not ask for each."""
    pointer = ctypes.pointer(status)
    for name, following in operations.entries_into(handle, offset, status):
        if filler(buffer, name, pointer, following, _FILL_PLUS):
            break  # no more fits; it asks again
    return 0
