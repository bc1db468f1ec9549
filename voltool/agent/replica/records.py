"""What a host knows durably of the replicas on it. Ships to servers.

``<state directory>/replicas/<uuid>.json`` is the record; a copy lies in the replica's place, beside the tree, so that a host that
lost its state directory still knows what stands there. One replica of a volume a host.
"""

from __future__ import annotations

import json
import os
from typing import List, Optional

from voltool import durable
from voltool.agent.replica.place import place_of
from voltool.errors import AgentError, RefusedError
from voltool.model import ReplicaRecord
from voltool.showing import shown
from voltool.volumes.mounts import is_within
from voltool.wire.codec import from_plain, to_plain

_SUFFIX = b".json"
_FORMAT = 1


class ReplicaBook:
    """The replicas of a host."""

    def __init__(self, state_directory: bytes) -> None:
        self._directory = os.path.join(state_directory, b"replicas")

    def find(self, uuid: str) -> Optional[ReplicaRecord]:
        """The replica of that volume, or None. AgentError where its record cannot be read: it is never taken for none."""
        return read_record(self._path(uuid))

    def replicas(self) -> List[ReplicaRecord]:
        """All, by the volume's uuid."""
        try:
            names = sorted(name for name in os.listdir(self._directory) if name.endswith(_SUFFIX))
        except FileNotFoundError:
            return []
        found = [read_record(os.path.join(self._directory, name)) for name in names]
        return [record for record in found if record is not None]

    def save(self, record: ReplicaRecord) -> None:
        """Durably; the copy beside the tree first."""
        text = json.dumps({"format": _FORMAT, "record": to_plain(record)}, indent=1).encode() + b"\n"
        place = place_of(record)
        if os.path.isdir(place.directory):
            durable.write_file(place.record, text)
        durable.make_directory(self._directory)
        durable.write_file(self._path(record.uuid), text)

    def remove(self, uuid: str) -> None:
        """Forget it. Idempotent."""
        durable.remove_file(self._path(uuid))

    def refuse_overlap(self, path: bytes, *, but: str = "") -> None:
        """RefusedError where ``path`` is, contains or lies in a replica, that of the volume ``but`` excepted."""
        for record in self.replicas():
            if record.uuid != but and (is_within(path, record.path) or is_within(record.path, path)):
                raise RefusedError(
                    "this is, contains or lies in a replica",
                    where=shown(path),
                    why=f"this host has a replica of {record.name} at {shown(record.path)}",
                    remedy=f"another path; or voltool replica remove {record.name} HOST",
                )

    def _path(self, uuid: str) -> bytes:
        if not uuid.replace("-", "").isalnum():
            raise AgentError("a volume's uuid has a form that no voltool gives it")
        return os.path.join(self._directory, uuid.encode() + _SUFFIX)


def read_record(path: bytes) -> Optional[ReplicaRecord]:
    """The record in that file; None where there is no file. AgentError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            content = json.load(file)
        known = content["record"] if content["format"] == _FORMAT else None
        record: ReplicaRecord = from_plain(ReplicaRecord, known)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AgentError) as error:
        raise AgentError("the record of a replica cannot be read", where=os.fsdecode(path), why=str(error)) from None
    return record
