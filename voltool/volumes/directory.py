"""The driver for any directory: no clones, the live tree is read. Ships to servers. See contract.py for what it promises."""

from __future__ import annotations

import contextlib
import os
import time
from typing import List, Optional

from voltool.errors import HostError, RefusedError
from voltool.model import Consistency, VolumeRecord
from voltool.origins import Origins
from voltool.showing import shown
from voltool.volumes.contract import MOST_TIMED as MOST
from voltool.volumes.contract import ByteRange, Changes, Clone, Telling
from voltool.volumes.traits import synchronize


class DirectoryDriver:
    """Reads the live tree. ``clone`` only writes everything out, so that stamps tell of what was written before."""

    name = "directory"
    compares = False

    def adopt(self, path: bytes) -> None:
        """Check that we may list the directory."""
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))
        except OSError as error:
            raise _cannot_read(path, error) from error

    def prepare(self, volume: VolumeRecord) -> None:
        """There is nothing to prepare."""

    def clone(self, volume: VolumeRecord, label: str) -> Clone:
        """The live tree after a syncfs."""
        time_ns = time.time_ns()
        try:
            synchronize(volume.path)
        except OSError as error:
            raise _cannot_read(volume.path, error) from error
        return Clone(label, volume.path, time_ns, live=True, consistency=Consistency.LIVE)

    def find(self, volume: VolumeRecord, label: str) -> Optional[Clone]:  # noqa: ARG002 - the contract's
        """Nothing is kept."""
        return None

    def clones(self, volume: VolumeRecord) -> List[Clone]:  # noqa: ARG002 - the contract's
        """Nothing is kept."""
        return []

    def open(self, clone: Clone) -> int:
        """The volume's root itself."""
        try:
            return os.open(clone.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise _cannot_read(clone.path, error) from error

    def origins(self, clone: Clone) -> Optional[Origins]:  # noqa: ARG002 - the contract's
        """It is the volume."""
        return None

    def drop(self, volume: VolumeRecord, clone: Clone) -> None:
        """There is nothing to delete; the live tree stays."""
        if not clone.live:
            raise RefusedError("the directory driver has no clones", where=shown(volume.path))

    def changes(self, volume: VolumeRecord, base: Clone, clone: Clone, most_timed: int = MOST) -> Optional[Changes]:  # noqa: ARG002
        """Not known: compare."""
        return None

    def changed_ranges(self, base: Clone, clone: Clone, path: bytes) -> Optional[List[ByteRange]]:  # noqa: ARG002 - the contract's
        """Not known: compare."""
        return None

    def path_of(self, clone: Clone, inode: int) -> Optional[bytes]:  # noqa: ARG002 - the contract's
        """Unknown: only a walk finds it."""
        return None

    def same_bytes(self, base: Clone, clone: Clone) -> Telling:  # noqa: ARG002 - the contract's
        """Unknown."""
        return contextlib.nullcontext()


def _cannot_read(path: bytes, error: OSError) -> HostError:
    return HostError(
        "the volume's directory cannot be read",
        where=shown(path),
        why=error.strerror or str(error),
        remedy="check the path; without rights, run voltool there as root (log in as root, or become = true)",
    )
