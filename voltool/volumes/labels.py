"""Where a volume's clones lie on its host, and which labels they may have. Ships to servers. Knows nothing of drivers."""

from __future__ import annotations

import os

from voltool.errors import RefusedError
from voltool.model import VolumeRecord
from voltool.volumes.records import area_of


def clones_directory(volume: VolumeRecord) -> bytes:
    """The directory of the volume's clones; it need not be there."""
    return clones_in(area_of(volume.path, volume.uuid))


def clones_in(area: bytes) -> bytes:
    """The same, of the volume whose area this is."""
    return os.path.join(area, b"clones")


def clone_path(directory: bytes, label: str) -> bytes:
    """Where the clone ``label`` stands. Raises RefusedError for what cannot be a label; a driver's own names begin with a dot."""
    if not label or "/" in label or "\0" in label or label.startswith("."):
        raise RefusedError("a clone cannot have this label", why=repr(label))
    return os.path.join(directory, label.encode())
