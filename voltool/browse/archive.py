"""Writes the archive of a dump to a file, which appears only when it is complete, or to a stream that somebody reads."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from voltool.backup.chains import open_chain
from voltool.backup.paths import resolve_paths
from voltool.backup.ports import World
from voltool.browse.export import Exported, Exporter
from voltool.browse.tree import Kept, Tree
from voltool.dumpfile.selection import Selection
from voltool.durable import fsync_directory, rename_new
from voltool.errors import RefusedError, SpaceError, VoltoolError
from voltool.events import PhaseEnded, PhaseStarted, Progressed, Reporter
from voltool.model import StoredDump
from voltool.showing import shown

_BUFFER = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: How many bytes lie between two words of progress.
_STEP = 8 << 20


@dataclass(frozen=True)
class Archived:
    """``archive_bytes`` is the length of the archive."""

    dump_ids: tuple[str, ...]
    exported: Exported
    archive_bytes: int
    seconds: float


def export_dump(
    world: World, dump: StoredDump, destination: bytes | BinaryIO, *, only: Sequence[bytes] = ()
) -> Archived:
    """Write ``dump`` as a tar archive to the new file ``destination``, or into an open stream.

    ``only``: as `voltool.backup.restore.restore` takes it. Raises RefusedError where the file exists, IntegrityError where a
    byte cannot be verified: then there is no file, and what went into a stream has no end.
    """
    began = time.monotonic()
    kept = Kept()
    with open_chain(world, dump, "exporting it", kept_data=kept.frames) as opened:
        tree = Tree(opened.chain, kept, numeric_owner=True)
        paths = resolve_paths(opened.chain, only)
        selection = Selection(opened.chain, paths) if only else None
        target = _new_file(destination) if isinstance(destination, bytes) else contextlib.nullcontext(destination)
        with target as stream:
            counter = _Counter(stream, world.reporter, dump.header.volume_name)
            try:
                exported = Exporter(tree, counter.write, selection).run()
            except VoltoolError:
                with contextlib.suppress(OSError):  # what was written so far goes out, so that its reader sees it fail
                    counter.flush()
                raise
            counter.finish()
        return Archived(opened.dump_ids, exported, counter.written, time.monotonic() - began)


class _Counter:
    """Joins small writes and tells how far it is."""

    def __init__(self, stream: BinaryIO, reporter: Reporter, subject: str) -> None:
        self.written = 0
        self._stream = stream
        self._reporter = reporter
        self._subject = subject
        self._waiting: list[bytes] = []
        self._length = 0
        self._told = 0
        reporter.report(PhaseStarted(subject, "export"))

    def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._length += len(data)
        if self._length >= _BUFFER:
            self._flush()

    def flush(self) -> None:
        self._flush()
        self._stream.flush()

    def finish(self) -> None:
        self.flush()
        self._reporter.report(PhaseEnded(self._subject, "export"))

    def _flush(self) -> None:
        view = memoryview(b"".join(self._waiting))
        while view:  # a raw stream may take less than it was given
            view = view[self._stream.write(view) :]
        self.written += self._length
        self._waiting, self._length = [], 0
        if self.written - self._told >= _STEP:
            self._told = self.written
            self._reporter.report(Progressed(self._subject, "export", bytes=self.written))


@contextlib.contextmanager
def _new_file(path: bytes) -> Iterator[BinaryIO]:
    """A file that gets its name, durably, when the context ends well, and is removed when it does not."""
    path = os.path.abspath(path)
    if os.path.lexists(path):
        raise _exists(path)
    partial = path + b".partial-" + secrets.token_hex(4).encode()
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with open(descriptor, "wb", buffering=0) as stream:
            yield stream
            os.fsync(descriptor)
        try:
            rename_new(partial, path)
        except FileExistsError:
            raise _exists(path) from None
        fsync_directory(os.path.dirname(path))
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError):
            raise _unwritable(path, error) from None
        raise


def _exists(path: bytes) -> RefusedError:
    return RefusedError(f"{shown(path)} exists", why="an archive never replaces anything", remedy="another name for it")


def _unwritable(path: bytes, error: OSError) -> VoltoolError:
    kind = SpaceError if error.errno in _FULL else VoltoolError
    return kind(
        "the archive cannot be written", where=shown(path), why=error.strerror or str(error), remedy="another place"
    )
