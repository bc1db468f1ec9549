"""A point in time as a tar archive that GNU tar restores. Streams; memory follows the depth of the tree and its links.

Every byte of a file is checked against its hash before it is written. Where one fails, or anything else does, the archive ends
within a file or in a block that is no header, and tar fails: an archive that just stops between two files would pass for whole.
Knows trees and archives; where the bytes go is the caller's.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from voltool.browse import pax
from voltool.browse.tree import Named, Tree, is_unreadable
from voltool.dumpfile import format as fmt
from voltool.dumpfile.content import Content
from voltool.dumpfile.selection import Selection
from voltool.dumpfile.verify import verify_manifest
from voltool.model import ROOT_OBJECT, FileProblem, Problem

Write = Callable[[bytes], object]

#: How many ranges of a file are told apart; beyond that small holes are written as zeros, so that memory stays flat.
_MAX_RANGES = 50_000
#: An unreadable or left-out file is named; of more than so many, only how many there were.
_MAX_NAMED = 1000
#: No header: its checksum is text.
_SPOILED = b"voltool: this archive is not complete".ljust(pax.BLOCK, b".")


@dataclass
class Exported:
    """What went into an archive. ``sockets``: those that were left out, since tar has no such thing; ``problems``: what could
    not be read when it was dumped."""

    members: int = 0
    content_bytes: int = 0
    sockets: list[bytes] = field(default_factory=list)
    problems: list[FileProblem] = field(default_factory=list)
    unnamed: int = 0

    def add_socket(self, path: bytes) -> None:
        """A socket is not in the archive."""
        if len(self.sockets) < _MAX_NAMED:
            self.sockets.append(path)
        else:
            self.unnamed += 1

    def add_problem(self, problem: Problem, path: bytes, why: str) -> None:
        """A file is not in the archive, or not as it was at one instant."""
        if len(self.problems) < _MAX_NAMED:
            self.problems.append(FileProblem(problem, path, why))
        else:
            self.unnamed += 1


class Exporter:
    """Writes the archive of ``tree`` (with ``selection`` a part of it) through ``write``; call `run` once."""

    def __init__(self, tree: Tree, write: Write, selection: Selection | None = None) -> None:
        self._tree = tree
        self._write = write
        self._selection = selection
        self._written = 0
        self._names = {kind: dict(_names_of(tree, kind)) for kind in (b"u", b"g")}
        self._first_paths: dict[int, bytes] = {}
        self._within_file = False
        self.result = Exported()

    def run(self) -> Exported:
        """Write everything and the end of the archive. IntegrityError, or what ``write`` raises: then the archive is spoiled."""
        verify_manifest(self._tree.chain)  # a circle of directories would never end
        try:
            self._all_members()
        except BaseException:
            if not self._within_file:
                with contextlib.suppress(OSError):  # nobody reads it any more
                    self._write(_SPOILED)
            raise
        self._out(bytes(2 * pax.BLOCK))
        self._out(bytes(-self._written % pax.RECORD))
        return self.result

    def _all_members(self) -> None:
        root = self._tree.record(ROOT_OBJECT)
        self._member(b"./", root)
        # A stack of iterators, not recursion: a tree may be deeper than Python's stack.
        waiting = [(b"./", self._children(root.number))]
        while waiting:
            path, children = waiting[-1]
            child = next(children, None)
            if child is None:
                waiting.pop()
                continue
            below = path + child.name
            if stat.S_ISDIR(child.record.mode):
                self._member(below + b"/", child.record)
                waiting.append((below + b"/", self._children(child.record.number)))
            else:
                self._non_directory(below, child.record)

    def _children(self, directory: int) -> Iterator[Named]:
        for child in self._tree.children(directory):
            entry = fmt.encode_entry(directory, child.name, child.record.number)
            if self._selection is None or self._selection.has_entry(entry):
                yield child

    def _non_directory(self, path: bytes, record: fmt.ObjectRecord) -> None:
        if record.number in self._first_paths:
            self._header(self._plain(path, record, pax.LINK, link=self._first_paths[record.number]))
            return
        if stat.S_ISSOCK(record.mode):
            self.result.add_socket(path[2:])
            return
        if is_unreadable(record) or (stat.S_ISREG(record.mode) and not self._tree.content(record).is_known):
            if not record.state & fmt.STATE_VANISHED:
                self.result.add_problem(Problem.UNREADABLE, path[2:], "it could not be read when it was dumped")
            return
        if self._tree.links(record.number) > 1:
            self._first_paths[record.number] = path
        if record.state & (fmt.STATE_UNKNOWN | fmt.STATE_UNSETTLED):
            self._doubtful(path, record)
        if stat.S_ISREG(record.mode) and record.size:
            self._file(path, record)
        else:
            self._member(path, record)

    def _doubtful(self, path: bytes, record: fmt.ObjectRecord) -> None:
        unknown = bool(record.state & fmt.STATE_UNKNOWN)
        why = "its content is an older dump's" if unknown else "it was being written while it was dumped"
        self.result.add_problem(Problem.UNREADABLE if unknown else Problem.UNSTABLE, path[2:], why)

    def _member(self, path: bytes, record: fmt.ObjectRecord) -> None:
        kind = pax.TYPES.get(stat.S_IFMT(record.mode))
        if kind is None:
            raise fmt.damaged("an object is of no type that there is", self._tree.chain.newest.name)
        self._header(self._plain(path, record, kind, link=record.target))

    def _plain(self, path: bytes, record: fmt.ObjectRecord, kind: bytes, link: bytes = b"") -> pax.Member:
        return self._described(path, record, kind, link=link, size=0, sparse=None)

    def _described(
        self, path: bytes, record: fmt.ObjectRecord, kind: bytes, *, link: bytes, size: int, sparse: pax.Ranges | None
    ) -> pax.Member:
        return pax.Member(
            path=path,
            type=kind,
            mode=record.mode,
            uid=record.uid,
            gid=record.gid,
            mtime_ns=record.mtime_s * 10**9 + record.mtime_ns,
            owner=self._names[b"u"].get(record.uid, b""),
            group=self._names[b"g"].get(record.gid, b""),
            link=link,
            size=size,
            device=record.size,
            xattrs={} if kind == pax.LINK else dict(fmt.decode_xattrs(record.xattrs, self._tree.chain.newest.name)),
            sparse=sparse,
            real_size=record.size,
        )

    def _file(self, path: bytes, record: fmt.ObjectRecord) -> None:
        content = self._tree.content(record)
        ranges = coarse(content.data_ranges(), _MAX_RANGES)
        self._check_holes(content, ranges)
        sparse = ranges != [(0, record.size)]
        before = b""
        if sparse:
            # What tar cannot know otherwise: that the last thing in the file is a hole.
            ranges = ranges if ranges and ranges[-1][1] == record.size else [*ranges, (record.size, record.size)]
            before = pax.encode_map(ranges)
        size = len(before) + sum(end - start for start, end in ranges)
        kind = pax.REGULAR
        self._header(self._described(path, record, kind, link=b"", size=size, sparse=ranges if sparse else None))
        self._within_file = True
        self._out(before)
        for start, end in ranges:
            at = start
            while at < end:
                data = content.read(at, min(end - at, fmt.CHUNK_SIZE - at % fmt.CHUNK_SIZE))
                self._out(data)
                at += len(data)
        self.result.content_bytes += record.size
        self._out(bytes(-size % pax.BLOCK))
        self._within_file = False

    @staticmethod
    def _check_holes(content: Content, ranges: pax.Ranges) -> None:
        """A chunk that is in no range is never read: its hash must be that of zeros."""
        at = 0
        for number in content.data_chunks():
            start = number * fmt.CHUNK_SIZE
            while at < len(ranges) and ranges[at][1] <= start:
                at += 1
            if at == len(ranges) or ranges[at][0] >= start + fmt.CHUNK_SIZE:
                content.chunk(number)

    def _header(self, member: pax.Member) -> None:
        self._out(pax.encode_header(member))
        self.result.members += 1

    def _out(self, data: bytes) -> None:
        self._written += len(data)
        self._write(data)


def coarse(ranges: Iterator[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """The ranges; where they are more than ``most``, those that lie close together are joined, the closest first."""
    found: list[tuple[int, int]] = []
    least = 0
    for start, end in ranges:
        if found and start - found[-1][1] < least:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
        while len(found) > most:
            least = max(2 * least, fmt.BLOCK_SIZE * 2)
            found = _joined(found, least)
    return found


def _joined(ranges: Sequence[tuple[int, int]], least: int) -> list[tuple[int, int]]:
    """Ranges whose gaps are at least ``least`` bytes."""
    joined = [ranges[0]]
    for start, end in ranges[1:]:
        if start - joined[-1][1] < least:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _names_of(tree: Tree, wanted: bytes) -> Iterator[tuple[int, bytes]]:
    for record in tree.chain.owners():
        kind, number, name = fmt.decode_owner(record, tree.chain.newest.name)
        if kind == wanted:
            yield number, name
