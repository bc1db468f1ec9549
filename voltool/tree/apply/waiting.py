"""An increment waits in its file until it is whole and checked; then it is applied, whatever happens. Ships to servers."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import Iterator, Optional, Sequence

from voltool.dumpfile import format as fmt
from voltool.dumpfile.frames import FrameDecoder
from voltool.dumpfile.reader import DumpReader
from voltool.errors import IntegrityError
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.files import translate
from voltool.tree.apply.held import HeldRecord, HeldTree
from voltool.tree.apply.increment import Increment
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners


@dataclass(frozen=True)
class Brought:
    """What an increment brought: files and other objects touched, bytes of data, and the state that is held now."""

    state_id: str
    files: int
    bytes: int


class IncrementReception:
    """Receives an increment into a file; `close` it. It is of use when `complete` has checked it whole."""

    def __init__(self, path: bytes) -> None:
        self._decoder = FrameDecoder("the increment")
        self._file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115 - see close

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the stream. Raises IntegrityError, SpaceError."""
        for _frame in self._decoder.feed(data):
            pass
        try:
            self._file.write(data)
        except OSError as error:
            raise translate(error, "an increment") from error

    def complete(self, base_state_id: str) -> str:
        """The stream is at its end: it is whole, durable, and made against that state; which it leads to. Raises IntegrityError,
        SpaceError, HostError."""
        trailer = self._decoder.finish()
        header = self._decoder.header
        if header is None or header.base_state_id != base_state_id:
            raise IntegrityError("the increment does not fit what is staged", why="it was made against another state")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise translate(error, "an increment") from error
        return trailer.state_id.hex()

    def close(self) -> None:
        """Idempotent."""
        with contextlib.suppress(OSError):
            self._file.close()


class IncrementFile(IncrementReception):
    """An increment to a held tree. Nothing of the tree is touched before `finish` has checked it whole."""

    def __init__(self, held: HeldTree) -> None:
        super().__init__(held.increment_path)
        self._held = held

    def changes(self) -> bool:
        """It has come whole, as of `complete`; whether it leads to another state than the one that is held."""
        assert self._held.record is not None
        return self.complete(self._held.record.state_id) != self._held.record.state_id

    def finish(self) -> None:
        """From now on it is applied, whatever happens. The tree must be in the form that it can be applied to."""
        assert self._held.record is not None
        self.complete(self._held.record.state_id)
        self._held.save(replace(self._held.record, applying=True))


def apply_waiting(
    held: HeldTree, attributes: Attributes, owners: Owners, losses: Losses, keep: Sequence[str] = ()
) -> Optional[Brought]:
    """Apply the increment that `IncrementFile.finish` left, or go on with it after a crash; None where none waits. Of the states
    that which it leads to is kept, and those in ``keep``."""
    record = held.record
    if record is None or not record.applying:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(held.increment_path)
        return None
    with open_increment(held) as reader:
        held.learn_owners(owners, reader.records(fmt.OWNERS))
        increment = Increment(held, reader, attributes, losses)
        state_id = increment.apply()
        held.keep_losses(losses)
        held.save(HeldRecord(state_id))
        increment.end()
    os.unlink(held.increment_path)
    held.keeper.keep_only({state_id, *keep})
    return Brought(state_id, increment.files, increment.size)


@contextlib.contextmanager
def open_increment(held: HeldTree) -> Iterator[DumpReader]:
    """The increment that has come whole. Raises IntegrityError, OSError."""
    source = _LocalFile(held.increment_path)
    try:
        yield DumpReader(source, "the increment")
    finally:
        source.close()


class _LocalFile:
    """A file as `RandomAccess`."""

    def __init__(self, path: bytes) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """As of `RandomAccess`."""
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)
