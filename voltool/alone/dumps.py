"""Dump files on this machine: which is which, and which rest on which."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from voltool.dumpfile.chain import Chain
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError, NotFoundError, UsageError, VoltoolError
from voltool.model import DumpHeader, DumpTotals
from voltool.showing import shown

SUFFIX = b".voltool"
#: Told of a file that is passed over.
Tell = Callable[[str], None]


class FileSource:
    """A file as `DumpReader` reads it."""

    def __init__(self, path: bytes) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would keep us waiting
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise UsageError("this is no dump", where=shown(path), why="it is not a file")
        self.size = status.st_size
        self._descriptor = descriptor

    def read_at(self, offset: int, length: int) -> bytes:
        """See `reader.RandomAccess`."""
        parts = []
        while length > 0:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@dataclass(frozen=True, eq=False)
class DumpFile:
    """A sound dump (header, trailer, index) at ``path``. Not open: there may be very many."""

    path: bytes
    header: DumpHeader
    totals: DumpTotals

    @property
    def order(self) -> Tuple[int, int]:
        """The newest dump of a volume has the highest: clocks are set, sequences are not."""
        return self.header.sequence, self.header.clone_time_ns


class DumpShelf:
    """The dump files that were named, and those that lie beside them. ``tell`` hears of what is passed over."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._known: Dict[Tuple[int, int], DumpFile] = {}
        #: By volume and state; those that were named come first.
        self._by_state: Dict[Tuple[str, str], List[DumpFile]] = {}
        self._looked_into: Set[bytes] = set()

    def named(self, paths: Sequence[bytes]) -> List[DumpFile]:
        """The dumps at ``paths``; of a directory all in it and below. NotFoundError, IntegrityError for one that is none."""
        dumps: List[DumpFile] = []
        for path in paths:
            if os.path.isdir(path):
                dumps += self._sound(below(path))
            else:
                dumps.append(self._read(path))
        if not dumps:
            raise NotFoundError("there is no dump", where=", ".join(shown(path) for path in paths))
        return list(dict.fromkeys(dumps))

    def chain(self, newest: DumpFile) -> List[DumpFile]:
        """What ``newest`` rests on, level 0 first: of the dumps that were named, else of those that lie beside it.

        IntegrityError that says which dump is missing.
        """
        chain = [newest]
        while chain[0].header.base_state_id is not None:
            base = self._base_of(chain[0])
            if base is None:
                raise _missing(chain[0])
            chain.insert(0, base)
        return chain

    def has_base(self, dump: DumpFile) -> bool:
        """Whether the dump stands alone, or its base is at hand."""
        return dump.header.base_state_id is None or self._base_of(dump) is not None

    def _base_of(self, dump: DumpFile) -> Optional[DumpFile]:
        found = self._known_base(dump)
        if found is None and self._look_beside(dump):
            found = self._known_base(dump)
        return found

    def _known_base(self, dump: DumpFile) -> Optional[DumpFile]:
        """The dump of the base's state, by preference the very dump that was the base; its level is lower, so a chain ends."""
        header = dump.header
        fitting = [
            other
            for other in self._by_state.get((header.volume_uuid, header.base_state_id or ""), ())
            if other.header.level < header.level
        ]
        return max(fitting, key=lambda other: other.header.dump_id == header.base_dump_id, default=None)

    def _look_beside(self, dump: DumpFile) -> bool:
        """Read the other dumps in its directory, once."""
        directory = os.path.dirname(os.path.abspath(dump.path))
        if directory in self._looked_into:
            return False
        self._looked_into.add(directory)
        self._sound(os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(SUFFIX))
        return True

    def _sound(self, paths: Iterable[bytes]) -> List[DumpFile]:
        dumps = []
        for path in paths:
            if os.path.islink(path):
                self._tell(f"{shown(path)} is passed over: it is a link")
                continue
            try:
                dumps.append(self._read(path))
            except VoltoolError as error:
                self._tell(f"{shown(path)} is passed over: {error.what}{': ' + error.why if error.why else ''}")
        return dumps

    def _read(self, path: bytes) -> DumpFile:
        try:
            status = os.stat(path)
            key = (status.st_dev, status.st_ino)
            if key not in self._known:
                source = FileSource(path)
                try:
                    reader = DumpReader(source, shown(path))
                    dump = self._known[key] = DumpFile(path, reader.header, reader.totals)
                    self._by_state.setdefault((dump.header.volume_uuid, dump.totals.state_id), []).append(dump)
                finally:
                    source.close()
            return self._known[key]
        except OSError as error:
            raise _unreadable(path, error) from None


def _unreadable(path: bytes, error: OSError) -> NotFoundError:
    return NotFoundError("the dump cannot be opened", where=shown(path), why=error.strerror or str(error))


@contextlib.contextmanager
def opened(dumps: Sequence[DumpFile]) -> Iterator[Chain]:
    """The dumps of a chain, level 0 first, while the context lasts. IntegrityError where they do not fit."""
    with contextlib.ExitStack() as stack:
        readers = []
        for dump in dumps:
            try:
                source = FileSource(dump.path)
            except OSError as error:
                raise _unreadable(dump.path, error) from None
            stack.callback(source.close)
            readers.append(DumpReader(source, shown(dump.path)))
        yield Chain(readers)


def below(directory: bytes) -> List[bytes]:
    """The files in ``directory`` and below that are called as dumps are; not what was discarded or is unfinished."""
    found = []
    for place, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith(b"."))
        found += [
            os.path.join(place, name) for name in sorted(names) if name.endswith(SUFFIX) and not name.startswith(b".")
        ]
    return found


def newest_of(dumps: Sequence[DumpFile]) -> DumpFile:
    """The newest. UsageError where the dumps are of several volumes."""
    volumes = {dump.header.volume_uuid: dump.header.volume_name for dump in dumps}
    if len(volumes) > 1:
        raise UsageError(
            "these are dumps of several volumes",
            why=", ".join(sorted(shown(name.encode("utf-8", "surrogateescape")) for name in volumes.values())),
            remedy="the dumps of one of them",
        )
    return max(dumps, key=lambda dump: dump.order)


def _missing(dump: DumpFile) -> IntegrityError:
    header = dump.header
    directory = os.path.dirname(os.path.abspath(dump.path))
    return IntegrityError(
        "a dump that this one rests on is missing",
        where=shown(dump.path),
        why=f"it holds what changed since the dump {header.base_dump_id or '?'} (state {header.base_state_id}),"
        f" which was not named and does not lie in {shown(directory)}",
        remedy="name that dump too, or put it there",
    )
