"""What a restore in place needs arrives in staging first: each object a file under its number, whole, checked, with all its
attributes but the seals. Nothing of the tree has been touched by then. Ships to servers.

Staging remembers what was asked for (``needed``) and that it has come (``arrived``): the next run goes on with it where that
covers what it needs itself, else it begins anew. What is to be done is always found by comparing anew.
"""

from __future__ import annotations

import os
from array import array

from voltool import durable
from voltool.dumpfile.bitmap import Bitmap
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.applier import Applier
from voltool.tree.apply.files import flat_path
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.staging import Phase, StagingKey, open_staging

_NEEDED = b"needed"
_ARRIVED = b"arrived"
_ALL = 1 << 63


def staged_name(number: int) -> bytes:
    """The name that an object has in the stream and in staging; names sort as their numbers."""
    return b"%016x" % number


def staged_path(number: int) -> bytes:
    """Where it lies, relative to staging."""
    return flat_path(ROOT_OBJECT) + b"/" + staged_name(number)


class StagedArrival(Applier):
    """`feed` it the stream of the needed objects, then `arrive`; always `close` it."""

    def arrive(self) -> Losses:
        """The stream is complete and durable; what the target could not hold of it. Raises IntegrityError."""
        self._complete()
        self._staging.sync()
        durable.write_file(os.path.join(self._staging.path, _ARRIVED), b"")
        return self._losses


class Stage:
    """The staging of one restore in place. ``transfer``: data must come, of all in ``asked`` (`prepare`)."""

    def __init__(self, key: StagingKey) -> None:
        self._key = key
        self.staging = open_staging(key, into_existing=True)
        self.fresh = self.staging.fresh
        self.transfer = False
        self.asked = Bitmap()

    def prepare(self, needed: Bitmap) -> None:
        """Decide what must come: nothing, the rest of an earlier run, or all of ``needed``. Raises VoltoolError, OSError."""
        if self.covers(needed):
            self.asked, self.transfer = needed, False
            return
        self.transfer = True
        earlier = self._earlier()
        if earlier is not None and all(number in earlier for number in needed.numbers(0, _ALL)):
            self.asked = earlier
            return
        self._clear()
        self.asked = needed
        numbers = array("Q", needed.numbers(0, _ALL))
        durable.write_file(os.path.join(self.staging.path, _NEEDED), numbers.tobytes())

    def covers(self, needed: Bitmap) -> bool:
        """Whether all of it is here already, whole and checked."""
        numbers = needed.numbers(0, _ALL)
        if next(numbers, None) is None:
            return True
        if not os.path.exists(os.path.join(self.staging.path, _ARRIVED)):
            return False
        descriptor = self.staging.descriptor
        return all(is_staged(descriptor, staged_path(number)) for number in needed.numbers(0, _ALL))

    def _earlier(self) -> Bitmap | None:
        """What an earlier run had asked for, if it was cut off while that came."""
        if os.path.exists(os.path.join(self.staging.path, _ARRIVED)):
            return None
        try:
            with open(os.path.join(self.staging.path, _NEEDED), "rb") as file:
                numbers = array("Q", file.read())
        except (FileNotFoundError, ValueError):
            return None
        found = Bitmap()
        for number in numbers:
            found.add(number)
        return found

    def _clear(self) -> None:
        """Begin anew, with an empty staging under the same lock. First what says that something of it can be used."""
        for name in (_NEEDED, _ARRIVED):
            path = os.path.join(self.staging.path, name)
            if os.path.exists(path):
                durable.remove_file(path)
        self.staging.clear(keep=(b"states",))
        assert self.staging.progress.phase is Phase.DATA

    def close(self) -> None:
        """Leave everything as it is; idempotent."""
        self.staging.close()


def is_staged(directory: int, path: bytes) -> bool:
    """Whether it is staged, and staged alone: what has a name in the tree already may have been written to."""
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=False).st_nlink == 1
    except (FileNotFoundError, NotADirectoryError):
        return False
