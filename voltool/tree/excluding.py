"""What a volume leaves out: globs, as users write them, and what at its root belongs to others. Ships to servers."""

from __future__ import annotations

import fnmatch
import os
import re
from typing import List, Optional, Pattern, Sequence

from voltool.inodes import ZFS_CONTROL_INODE

OWN_DIRECTORY = ".voltool"


class Excluder:
    """Globs as users write them: without ``/`` against each name, with ``/`` against the path from the root."""

    def __init__(self, globs: Sequence[bytes]) -> None:
        names = [glob for glob in globs if b"/" not in glob.rstrip(b"/")]
        paths = [glob.strip(b"/") for glob in globs if b"/" in glob.rstrip(b"/")]
        self._names = _compile([glob.rstrip(b"/") for glob in names])
        self._paths = _compile(paths)

    @property
    def active(self) -> bool:
        """Whether there is anything to exclude."""
        return bool(self._names or self._paths)

    def matches(self, directory: bytes, name: bytes) -> bool:
        """Whether ``name`` in ``directory`` (relative to the root) is excluded."""
        if self._names and self._names.match(os.fsdecode(name)):
            return True
        path = directory + b"/" + name if directory else name
        return bool(self._paths and self._paths.match(os.fsdecode(path)))


def is_no_part(entry: os.DirEntry[str]) -> bool:
    """Whether what a volume's root has there belongs to voltool, or to ZFS."""
    return entry.name == OWN_DIRECTORY or entry.inode() == ZFS_CONTROL_INODE


def _compile(globs: List[bytes]) -> Optional[Pattern[str]]:
    if not globs:
        return None
    return re.compile("|".join(fnmatch.translate(os.fsdecode(glob)) for glob in globs), re.DOTALL)
