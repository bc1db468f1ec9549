"""Where a mount may be, what is mounted there, who uses it, and how it is taken off. Knows /proc, nothing of dumps.

Sources: proc(5) on mountinfo, whose octal escapes it undoes; umount2(2); fusermount3(1).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from voltool.errors import BusyError, NotFoundError, RefusedError, VoltoolError
from voltool.showing import shown

#: How the kernel calls our mounts.
FILE_SYSTEM = b"fuse.voltool"
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_ESCAPE = re.compile(rb"\\([0-7]{3})")
#: How many of those who use a mount are named.
_NAMED = 5


@dataclass(frozen=True)
class Mounted:
    """One mount of this process's namespace: where, of what kind, and what it calls its source."""

    path: bytes
    kind: bytes
    source: bytes


def mounts() -> list[Mounted]:
    """All, as they lie over each other: the last one at a path is the visible one."""
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            before, _, after = line.rstrip(b"\n").partition(b" - ")
            kind, source = after.split(b" ")[:2]
            found.append(Mounted(_plain(before.split(b" ")[4]), kind, _plain(source)))
    return found


def _plain(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), text)


def mounted_at(path: bytes) -> Mounted | None:
    """What is visible at ``path`` (free of symlinks), if it is a mount point."""
    return next((mount for mount in reversed(mounts()) if mount.path == path), None)


def real_path(path: bytes) -> bytes:
    """The absolute path without symlinks, also of a mount whose daemon is dead (which nobody can look into)."""
    path = os.path.abspath(path)
    return (
        os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if _is_dead(path)
        else os.path.realpath(path)
    )


def _is_dead(path: bytes) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def prepare(path: bytes, forbidden: Sequence[tuple[bytes, str]]) -> bool:
    """Make sure that ``path`` (from `real_path`) can be mounted on; whether a dead mount of ours was taken off there.

    ``forbidden``: directories, with what they are, that it must not be, be in, or hide. Raises NotFoundError, RefusedError.
    """
    cleaned = False
    while _is_dead(path):
        there = mounted_at(path)
        if there is None or there.kind != FILE_SYSTEM:
            raise RefusedError(f"{shown(path)} is a dead mount, and not of voltool", remedy=f"umount -l {shown(path)}")
        detach(path, lazy=True)
        cleaned = True
    there = mounted_at(path)
    if there is not None and there.kind == FILE_SYSTEM:
        raise RefusedError(
            f"{shown(path)} is mounted already",
            why=f"with {shown(there.source)}",
            remedy=f"voltool umount {shown(path)}",
        )
    for directory, what in forbidden:
        _keep_out(path, os.path.realpath(directory), what)
    if b".voltool" in path.split(b"/"):
        raise RefusedError(f"{shown(path)} is voltool's own", remedy="a directory outside of .voltool")
    _require_empty(path)
    return cleaned


def _keep_out(path: bytes, directory: bytes, what: str) -> None:
    if path == directory or path.startswith(directory + b"/") or directory.startswith(path.rstrip(b"/") + b"/"):
        raise RefusedError(
            f"nothing can be mounted on {shown(path)}",
            why=f"{what} is {shown(directory)}: a mount there would need itself in order to answer",
            remedy="an empty directory elsewhere",
        )


def _require_empty(path: bytes) -> None:
    try:
        mode = os.stat(path).st_mode
        names = os.listdir(path) if stat.S_ISDIR(mode) else []
    except FileNotFoundError:
        raise NotFoundError(f"there is no {shown(path)}", remedy=f"mkdir {shown(path)}") from None
    except OSError as error:
        raise RefusedError(f"{shown(path)} cannot be mounted on", why=error.strerror or str(error)) from None
    if not stat.S_ISDIR(mode):
        raise RefusedError(f"{shown(path)} is not a directory", remedy="an empty directory")
    if names:
        raise RefusedError(
            f"{shown(path)} is not empty", why="what is in it would be hidden", remedy="an empty directory"
        )


def unmount(path: bytes, *, lazy: bool = False) -> Mounted:
    """Take our mount at ``path`` (from `real_path`) off; one whose daemon is dead, too. What it was.

    ``lazy``: the name is gone at once, the mount when nobody uses it any more. Raises NotFoundError, BusyError with who uses it.
    """
    there = mounted_at(path)
    if there is None or there.kind != FILE_SYSTEM:
        raise NotFoundError(
            f"no volume is mounted at {shown(path)}",
            why="nothing is mounted there" if there is None else f"what is mounted there is {shown(there.kind)}",
            remedy="grep voltool /proc/mounts, to see what is",
        )
    detach(path, lazy=lazy or _is_dead(path))
    return there


def detach(path: bytes, *, lazy: bool) -> None:
    """umount2(2), or fusermount for those who may not call it. BusyError, VoltoolError."""
    code = _umount(path, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0))
    if code == 0:
        return
    if code == errno.EPERM:
        why = _fusermount(path, lazy=lazy)
        if not why:
            return
        if "busy" not in why:
            raise VoltoolError(f"{shown(path)} cannot be unmounted", why=why, remedy="the user who mounted it, or root")
    elif code != errno.EBUSY:
        raise VoltoolError(f"{shown(path)} cannot be unmounted", why=os.strerror(code), remedy="--lazy")
    who = list(users_of(path))
    more = f" and {len(who) - _NAMED} more" if len(who) > _NAMED else ""
    raise BusyError(
        f"{shown(path)} is in use",
        why="by " + ", ".join(who[:_NAMED]) + more if who else "by somebody who cannot be seen from here",
        remedy="again when they are done, or --lazy: gone from its path now, and altogether when nobody uses it",
    )


def _umount(path: bytes, flags: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return 0 if libc.umount2(path, flags) == 0 else ctypes.get_errno()


def _fusermount(path: bytes, *, lazy: bool) -> str:
    """What it says where it fails."""
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        return "neither fusermount3 nor fusermount is installed"
    options = ["-u", "-z"] if lazy else ["-u"]
    done = subprocess.run([program, *options, "--", path], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"{program} ended with {done.returncode}"


def users_of(path: bytes) -> Iterator[str]:
    """``pid 12 (less)`` of each process with a file or its directory below ``path``. Asks /proc alone, never the mount."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if any(_is_below(target, path) for target in _targets(pid)):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb") as file:
                yield f"pid {pid} ({shown(file.read().strip())})"


def _targets(pid: str) -> Iterator[bytes]:
    links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
    with contextlib.suppress(OSError):
        links += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
    for link in links:
        with contextlib.suppress(OSError):
            yield os.readlink(os.fsencode(link))
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            yield line.rstrip(b"\n").split(b" ", 5)[-1].strip()


def _is_below(target: bytes, path: bytes) -> bool:
    return target == path or target.startswith(path + b"/")
