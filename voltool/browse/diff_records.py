"""What a difference is, how two records are compared, and differences as spooled bytes that sort by path. Pure."""

from __future__ import annotations

import enum
import stat
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from voltool.dumpfile import format as fmt

_LENGTHS = struct.Struct(">III")


class Change(enum.Enum):
    """What is not as it was."""

    TYPE = "type"
    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    MTIME = "mtime"
    XATTRS = "xattrs"
    FLAGS = "flags"


class Outcome(NamedTuple):
    """One difference at ``path``. ``old`` and ``new`` are object records, empty where it was not, or is not any more;
    ``old_path`` where it was, if elsewhere."""

    path: bytes
    old_path: bytes | None
    old: bytes
    new: bytes

    @property
    def kind(self) -> str:
        """``added``, ``removed``, ``renamed`` (and perhaps changed), ``changed``."""
        if not self.old:
            return "added"
        if not self.new:
            return "removed"
        return "changed" if self.old_path is None else "renamed"

    @property
    def changes(self) -> tuple[Change, ...]:
        """What changed of something that is in both."""
        return changes_between(self.old, self.new) if self.old and self.new else ()


def changes_between(old: bytes, new: bytes) -> tuple[Change, ...]:
    """What differs between two records, whatever their numbers. Of a directory the times do not count: each name changes them.

    Content that could not be read is not known to have changed.
    """
    if old[8:] == new[8:]:
        return ()
    a, b = fmt.decode_object(old), fmt.decode_object(new)
    if stat.S_IFMT(a.mode) != stat.S_IFMT(b.mode):
        return (Change.TYPE,)
    unknown = (a.state | b.state) & fmt.STATE_UNKNOWN
    found = {
        Change.CONTENT: not unknown and (a.size, a.content, a.target) != (b.size, b.content, b.target),
        Change.MODE: a.mode != b.mode,
        Change.OWNER: (a.uid, a.gid) != (b.uid, b.gid),
        Change.MTIME: not stat.S_ISDIR(a.mode) and (a.mtime_s, a.mtime_ns) != (b.mtime_s, b.mtime_ns),
        Change.XATTRS: a.xattrs != b.xattrs,
        Change.FLAGS: (a.flags, a.project) != (b.flags, b.project) or (a.state ^ b.state) & fmt.STATE_VERITY != 0,
    }
    return tuple(change for change, differs in found.items() if differs)


def encode_outcome(outcome: Outcome) -> bytes:
    """Bytes that sort by path, name by name: no name holds a NUL or is empty."""
    key = outcome.path.replace(b"/", b"\0") + b"\0\0"
    old_path = outcome.old_path or b""
    lengths = _LENGTHS.pack(len(old_path), len(outcome.old), len(outcome.new))
    return key + lengths + old_path + outcome.old + outcome.new


def _decode(data: bytes) -> Outcome:
    end = data.index(b"\0\0")
    at = end + 2 + _LENGTHS.size
    old_path, old, new = _LENGTHS.unpack_from(data, end + 2)
    return Outcome(
        data[:end].replace(b"\0", b"/"),
        data[at : at + old_path] or None,
        data[at + old_path : at + old_path + old],
        data[at + old_path + old : at + old_path + old + new],
    )


def outcomes_in_order(encoded: Iterable[bytes]) -> Iterator[Outcome]:
    """Sorted outcomes; what is gone at a path where something else now stands is one change, and none where they are alike."""
    for path, group in groupby(map(_decode, encoded), lambda outcome: outcome.path):
        gone: Outcome | None = None
        come: Outcome | None = None
        for outcome in group:
            if outcome.old and outcome.new:
                yield outcome
            elif outcome.old:
                gone = outcome
            else:
                come = outcome
        if gone is not None and come is not None:
            if changes_between(gone.old, come.new):
                yield Outcome(path, None, gone.old, come.new)
        elif gone is not None or come is not None:
            yield gone or come  # type: ignore[misc]
