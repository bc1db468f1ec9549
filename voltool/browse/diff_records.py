"""What a difference is, how two records are compared, and differences as spooled bytes that sort by path. Pure."""

from __future__ import annotations

import enum
import stat
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from voltool.dumpfile import format as fmt

#: Lengths of the old path and of the two records; the anchor.
_LENGTHS = struct.Struct(">IIIQI")


class Change(enum.Enum):
    """What is not as it was."""

    TYPE = "type"
    CONTENT = "content"
    MODE = "mode"
    OWNER = "owner"
    MTIME = "mtime"
    XATTRS = "xattrs"
    FLAGS = "flags"


class Anchor(NamedTuple):
    """A directory's object number, and how many names lie between."""

    directory: int
    depth: int


class Outcome(NamedTuple):
    """One difference at ``path``. ``old`` and ``new`` are object records, empty where it was not, or is not any more;
    ``old_path`` where it was, if elsewhere. ``anchor``, of what is in one alone: the directory it hangs on that is in both, and
    how far below."""

    path: bytes
    old_path: bytes | None
    old: bytes
    new: bytes
    anchor: Anchor = Anchor(0, 0)

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
    lengths = _LENGTHS.pack(len(old_path), len(outcome.old), len(outcome.new), *outcome.anchor)
    return key + lengths + old_path + outcome.old + outcome.new


def _decode(data: bytes) -> Outcome:
    end = data.index(b"\0\0")
    at = end + 2 + _LENGTHS.size
    old_path, old, new, directory, depth = _LENGTHS.unpack_from(data, end + 2)
    return Outcome(
        data[:end].replace(b"\0", b"/"),
        data[at : at + old_path] or None,
        data[at + old_path : at + old_path + old],
        data[at + old_path + old : at + old_path + old + new],
        Anchor(directory, depth),
    )


def outcomes_in_order(encoded: Iterable[bytes]) -> Iterator[Outcome]:
    """Sorted outcomes. Where something is gone from a place and something else has come to the same place, that is one change,
    and none where they are alike. The same path is not the same place where a directory above was renamed and another made."""
    for _path, group in groupby(map(_decode, encoded), lambda outcome: outcome.path):
        gone: dict[Anchor, Outcome] = {}
        come: dict[Anchor, Outcome] = {}
        for outcome in group:
            if outcome.old and outcome.new:
                yield outcome
            else:
                (gone if outcome.old else come)[outcome.anchor] = outcome
        for anchor in [*gone, *(anchor for anchor in come if anchor not in gone)]:
            if anchor not in come or anchor not in gone:
                yield gone.get(anchor) or come[anchor]
            elif changes_between(gone[anchor].old, come[anchor].new):
                yield gone[anchor]._replace(new=come[anchor].new)
