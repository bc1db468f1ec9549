"""Where everything of a replica lies on its host, beside what is served: the layout alone. Ships to servers.

`.voltool/replica-<uuid>/` in the directory that the replica's path P is in, on the same file system, so that one rename brings
what was made there to P. See docs/footprint.md.
"""

from __future__ import annotations

import os

from voltool import durable
from voltool.errors import HostError
from voltool.frozen import dataclass
from voltool.model import ReplicaRecord
from voltool.showing import shown
from voltool.tree.apply.staging import StagingKey, staging_path
from voltool.volumes import records
from voltool.volumes.records import AREA_NAME, LOCK_NAME

_PREFIX = b"replica-"
_LOCK_PATIENCE = 3.0


@dataclass(frozen=True)
class ReplicaPlace:
    """The directory of one replica. ``path``: where the replica is served."""

    path: bytes
    uuid: str

    @property
    def directory(self) -> bytes:
        """All of it but the registry's record."""
        return os.path.join(os.path.dirname(self.path), AREA_NAME, _PREFIX + self.uuid.encode())

    @property
    def next(self) -> bytes:
        """The tree that will be served: a btrfs subvolume that is changed in place, or a tree that is there when it is whole."""
        return os.path.join(self.directory, b"next")

    @property
    def previous(self) -> bytes:
        """The tree that was served before, until the next swap, for those who have it open."""
        return os.path.join(self.directory, b"previous")

    @property
    def dropped(self) -> bytes:
        """A tree that nobody needs any more, on its way out."""
        return os.path.join(self.directory, b"dropped")

    @property
    def states(self) -> bytes:
        """Manifests and stamps of what is served and of what is held."""
        return os.path.join(self.directory, b"states")

    @property
    def increment(self) -> bytes:
        """An increment that has come or comes."""
        return os.path.join(self.directory, b"increment")

    @property
    def record(self) -> bytes:
        """The copy of the registry's record, beside the tree."""
        return os.path.join(self.directory, b"record.json")

    @property
    def served(self) -> bytes:
        """Which tree is served and how it is told from others (`agent.replica.served`)."""
        return os.path.join(self.directory, b"served.json")

    @property
    def journal(self) -> bytes:
        """A swap that is under way (`agent.replica.swap`)."""
        return os.path.join(self.directory, b"journal.json")

    def make(self) -> None:
        """Make the directory. Idempotent. HostError, RefusedError where somebody else has a `.voltool` there."""
        try:
            for directory in (os.path.dirname(self.directory), self.directory):
                if not os.path.lexists(directory):
                    os.mkdir(directory, 0o700)
                    durable.fsync_directory(os.path.dirname(directory))
                records.check_own_directory(directory)
        except OSError as error:
            raise HostError(
                "voltool cannot keep a replica's things beside it",
                where=shown(self.directory),
                why=error.strerror or str(error),
                remedy="run voltool there as root: log in as root, or set become = true for the host and allow sudo",
            ) from error

    def lock(self, owner: str) -> durable.FileLock:
        """The replica's lock, to be used as a context; the directory must be there. BusyError where someone works on it:
        workers of a session that was just killed are waited for, since they may still write."""
        path = os.path.join(self.directory, LOCK_NAME)
        return durable.FileLock(path, what=f"the replica at {shown(self.path)}", owner=owner, patience=_LOCK_PATIENCE)


def staging_key(record: ReplicaRecord) -> StagingKey:
    """Of the staging in which its first copy, or its next state, is made."""
    return StagingKey(place_of(record).next, record.uuid, "", f"replica {record.replica_id}")


def staging_of(record: ReplicaRecord) -> bytes:
    """Where that is; of a subvolume it is inside."""
    place, key = place_of(record), staging_key(record)
    inside = staging_path(key, os.path.join(place.next, AREA_NAME))
    return inside if os.path.isdir(inside) else staging_path(key, os.path.join(place.directory, AREA_NAME))


def place_of(record: ReplicaRecord) -> ReplicaPlace:
    """The place of a replica."""
    return ReplicaPlace(record.path, record.uuid)
