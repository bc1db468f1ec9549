"""The most of everything in a tree, with the first path that has it; and what of that another file system cannot hold. Ships to
servers."""

from __future__ import annotations

import os
import stat
from typing import Dict, Iterator, List, NamedTuple, Tuple

from voltool.inodes import FlagReader
from voltool.model import TargetMove
from voltool.showing import shown
from voltool.volumes.limits import LETTERS, Limits, xattr_cost
from voltool.wire import moving

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: The longest path that a program can open at once, without its NUL (linux/limits.h).
_PATH_MAX = 4095
#: Kept as its negative: the most is the earliest.
_EARLIEST = "earliest time"


class Extremes:
    """Takes one look at each entry; `found` is what the most was. ``root`` is the volume's path."""

    def __init__(self, root: bytes) -> None:
        self._start = len(root.rstrip(b"/")) + 1
        self._found: Dict[str, Tuple[int, bytes]] = {}
        self._flags = FlagReader()

    def names(self, directory: bytes, names: List[bytes]) -> None:
        """The names of one directory."""
        folded = {name: name.decode("utf-8", "surrogateescape").casefold() for name in names}
        if len(set(folded.values())) < len(folded):
            seen: Dict[str, bytes] = {}
            for name in sorted(folded):
                if folded[name] in seen:
                    self._note("twin", 1, os.path.join(directory, name))
                seen[folded[name]] = name

    def entry(self, path: bytes, status: os.stat_result) -> None:
        """One name, with what stat(2) says of it."""
        name = os.path.basename(path)
        self._note("name", len(name), path)
        self._note("path", len(path) - self._start, path)
        if not name.isascii() and not _is_utf8(name):
            self._note("not UTF-8", 1, path)
        self._note("latest time", status.st_mtime_ns // 10**9, path)
        self._note(_EARLIEST, -(status.st_mtime_ns // 10**9), path)
        if stat.S_ISLNK(status.st_mode):
            self._note("symlink", status.st_size, path)
        if not stat.S_ISDIR(status.st_mode):
            self._note("links", status.st_nlink, path)
        if stat.S_ISREG(status.st_mode):
            self._note("file size", status.st_size, path)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            self._opened(path, status.st_dev)

    def _opened(self, path: bytes, device: int) -> None:
        try:
            descriptor = os.open(path, _READ)
        except OSError:
            return
        try:
            flags, project = self._flags.read(descriptor, device)
            for bit, letter in LETTERS.items() if flags else ():
                if flags & bit:
                    self._note(f"flag {letter}", 1, path)
            if project:
                self._note("project", project, path)
            self._xattrs(descriptor, path)
        except OSError:
            return
        finally:
            os.close(descriptor)

    def _xattrs(self, descriptor: int, path: bytes) -> None:
        costs = []
        for listed in os.listxattr(descriptor):
            name, size = os.fsencode(listed), len(os.getxattr(descriptor, listed))
            if not name.startswith(b"trusted.SGI_ACL_"):  # XFS shows each ACL a second time
                self._note("xattr", len(name) + size, path)
                costs.append(xattr_cost(name, size))
        if costs:
            self._note("xattr entry", max(costs), path)
            self._note("xattrs", sum(costs), path)

    def _note(self, what: str, amount: int, path: bytes) -> None:
        known = self._found.get(what)
        if known is None or known[0] < amount:
            self._found[what] = (amount, path)

    @property
    def found(self) -> Tuple[moving.Extreme, ...]:
        """What was seen."""
        return tuple(moving.Extreme(what, amount, path) for what, (amount, path) in sorted(self._found.items()))


class _Excess(NamedTuple):
    """``what`` of the tree is too much, and ``why``; ``remedy`` beside another file system."""

    what: str
    why: str
    path: bytes
    remedy: str = "change it"


def obstacles_of(extremes: Tuple[moving.Extreme, ...], limits: Limits, move: TargetMove) -> List[moving.Obstacle]:
    """What the file system at the target cannot hold, each with the first path that has it."""
    by_what = {extreme.what: extreme for extreme in extremes}
    return [
        moving.Obstacle(
            f"the target's file system cannot hold {excess.what}",
            f"{move.source.host}:{shown(excess.path)}",
            f"it is {limits.kind}; {excess.why}",
            f"{excess.remedy}, or another file system",
        )
        for extreme in by_what.values()
        for excess in _excesses(extreme, limits, move)
    ]


def _excesses(extreme: moving.Extreme, limits: Limits, move: TargetMove) -> Iterator[_Excess]:
    what, amount, path = extreme.what, extreme.amount, extreme.path
    for kind, most, title in (
        ("name", limits.name, "a name as long as this"),
        ("file size", limits.file_size, "a file as large as this"),
        ("links", limits.links, "a file with so many names"),
        ("symlink", limits.symlink, "a symlink to a path as long as this"),
        ("xattr", limits.xattr, "an extended attribute as large as this"),
        ("xattr entry", limits.xattr_entry, "an extended attribute as large as this"),
        ("xattrs", limits.xattrs, "so many extended attributes of one file"),
    ):
        if what == kind and 0 <= most < amount:
            yield _Excess(title, f"{amount} of {most} that are possible", path)
    if limits.folds_case and what == "twin":
        yield _Excess("names that differ only in case", "there they are the same name", path, "rename one")
    if limits.folds_case and what == "not UTF-8":
        yield _Excess("a name that is not UTF-8", "it keeps names as characters", path, "rename it")
    yield from _of_time(what, amount, path, limits)
    if what == "project" and not limits.projects:
        yield _Excess("project ids", f"this one is {amount}", path)
    if what.startswith("flag ") and limits.flags is not None and what[5:] not in limits.flags:
        yield _Excess(f"the inode flag {what[5:]}", f"chattr +{what[5:]} is not known there", path)
    before, after = len(move.source.path) + 1 + amount, len(move.path) + 1 + amount
    if what == "path" and before <= _PATH_MAX < after:
        yield _Excess(
            "this at a path that programs can open", f"{after} of {_PATH_MAX} bytes", path, "a shorter target"
        )


def _of_time(what: str, amount: int, path: bytes, limits: Limits) -> Iterator[_Excess]:
    late = what == "latest time" and limits.last is not None and amount > limits.last
    early = what == _EARLIEST and limits.first is not None and -amount < limits.first
    if late or early:
        seconds = amount if late else -amount
        yield _Excess("this time of modification", f"{seconds} seconds since 1970 are beyond it", path, "touch it")


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
