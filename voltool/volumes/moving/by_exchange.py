"""The tree leaves by one rename: it is exchanged with an empty, immutable directory. Ships to servers. See `departure`."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from voltool import durable
from voltool.errors import HostError, RefusedError
from voltool.model import SourceMove
from voltool.showing import shown
from voltool.volumes.lock.book import LockBook
from voltool.volumes.lock.hold import exchange_back_held, exchange_held, is_in_force
from voltool.volumes.moving import placeholder


def check_exchange(area: bytes) -> None:
    """RefusedError where the file system cannot exchange two names (zfs-fuse, other FUSE, OpenZFS before 2.2): the switch would
    fail, after everything was sent. Tried with two directories in the volume's area, which go again."""
    names = [os.path.join(area, b"exchange-%d" % number) for number in (1, 2)]
    try:
        for name in names:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700)
        durable.rename_with_flags(names[0], names[1], durable.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in durable.NO_RENAME_FLAGS:
            raise HostError(
                "the volume's area cannot be written to", where=shown(area), why=str(error.strerror)
            ) from error
        raise RefusedError(
            "a directory on this file system cannot be moved away",
            where=shown(os.path.dirname(os.path.dirname(area))),
            why="it cannot exchange two names at once, so for a moment nothing would stand at the path",
            remedy="put it into a dataset or file system of its own: a mount point can be moved",
        ) from error
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                os.rmdir(name)


class ByExchange:
    """A `Departure` of a directory, or of a subvolume that is not mounted."""

    def __init__(self, book: LockBook) -> None:
        self._book = book

    def is_away(self, move: SourceMove) -> bool:
        """See `Departure`."""
        return placeholder.stands_at(move.path, move)

    def take_away(self, move: SourceMove) -> None:
        """See `Departure`."""
        try:
            placeholder.make(move)
        except OSError as error:
            raise HostError(
                "the volume cannot be taken away from its path",
                where=shown(move.path),
                why=f"the empty directory that is to stand there cannot be made: {error.strerror}",
            ) from error
        record = self._book.read()
        if record is not None:
            exchange_held(self._book, record, move.retired_path)
        else:
            _exchange(move)
        placeholder.seal(move.path)

    def bring_back(self, move: SourceMove) -> None:
        """See `Departure`."""
        record = self._book.read()
        locked_there = record is not None and record.moved_to is not None and is_in_force(record)
        if self.is_away(move):
            with contextlib.suppress(OSError):
                placeholder.unseal(move.path)
            if locked_there:
                assert record is not None
                exchange_back_held(self._book, record)
            else:
                _exchange(move)
        elif locked_there:
            assert record is not None
            self._book.write(dataclasses.replace(record, moved_to=None))
        if placeholder.stands_at(move.retired_path, move):
            with contextlib.suppress(OSError):
                os.rmdir(move.retired_path)

    def forget(self, move: SourceMove) -> None:
        """See `Departure`. There is nothing."""


def _exchange(move: SourceMove) -> None:
    try:
        durable.rename_with_flags(move.retired_path, move.path, durable.RENAME_EXCHANGE)
    except OSError as error:
        raise HostError(
            "the volume cannot be brought back to its path",
            where=shown(move.retired_path),
            why=error.strerror or str(error),
            remedy=f"see that {shown(move.path)} is an empty directory, then voltool move --resume {move.name}",
        ) from error
    for directory in {os.path.dirname(move.path), os.path.dirname(move.retired_path)}:
        durable.fsync_directory(directory)
