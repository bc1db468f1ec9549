"""Names in an SFTP store. Pure: no I/O."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator


def parents_of(root: bytes, path: bytes) -> Iterator[bytes]:
    """``path`` and what is above it, up to the root."""
    while path != root:
        yield path
        path = posixpath.dirname(path)


def digest_of(name: str) -> bytes:
    """What stands for a file's name in that of its pins: the name may be longer than a pin's can be."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32].encode()
