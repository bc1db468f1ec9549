"""A home that has heard of a later one and could not retire yet, as while somebody writes: what it remembers, durably. Ships to
servers.

``heard.json`` in the volume's area. It counts only as long as the volume has a lower epoch. Who writes there is not kept from it
(nothing that he writes is lost when it retires); but nothing more is made of it: no dump, no move, no replica's state.
"""

from __future__ import annotations

import os
from typing import Optional

from voltool import durable
from voltool.errors import MovedError
from voltool.model import Heard, VolumeRecord
from voltool.showing import shown
from voltool.volumes.notes import read_note, save_note

_NAME = b"heard.json"


def read_heard(area: bytes, record: VolumeRecord) -> Optional[Heard]:
    """The later home that the volume's home here has heard of; None: none. AgentError for a record that cannot be understood."""
    heard = read_note(area, _NAME, Heard, "the record of a later home")
    return heard if heard is not None and heard.epoch.number > record.epoch.number else None


def save_heard(area: bytes, heard: Heard) -> None:
    """Durably."""
    save_note(area, _NAME, heard)


def remove_heard(area: bytes) -> None:
    """It has retired. Idempotent."""
    durable.remove_file(os.path.join(area, _NAME))


def refuse_superseded(area: bytes, record: VolumeRecord) -> None:
    """MovedError, with where the volume lives, when this home has heard that it is none any more."""
    heard = read_heard(area, record)
    if heard is not None:
        place = f"{heard.home.host}:{shown(heard.home.path)}"
        raise MovedError(
            "a replica was promoted in the volume's place",
            where=shown(record.path),
            why=f"it lives at {place} (epoch {heard.epoch.number}); this home has heard of it and could not retire yet",
            remedy=f"voltool volume set {record.name} {place}; then voltool replica list {record.name} lets it retire",
        )
