"""A home that has heard of a later one and could not retire yet, as while somebody writes: what it remembers, durably. Ships to
servers.

``heard.json`` in the volume's area. It counts only as long as the volume has a lower epoch. Who writes there is not kept from it
(nothing that he writes is lost when it retires); but nothing more is made of it: no dump, no move, no replica's state.
"""

from __future__ import annotations

import json
import os
from typing import Optional

from voltool import durable
from voltool.errors import AgentError, MovedError
from voltool.model import Heard, VolumeRecord
from voltool.showing import shown
from voltool.wire.codec import from_plain, to_plain

_NAME = b"heard.json"


def read_heard(area: bytes, record: VolumeRecord) -> Optional[Heard]:
    """The later home that the volume's home here has heard of; None: none. AgentError for a record that cannot be understood."""
    try:
        with open(os.path.join(area, _NAME), "rb") as file:
            heard: Heard = from_plain(Heard, json.load(file))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AgentError("the record of a later home cannot be read", where=shown(area), why=str(error)) from None
    return heard if heard.epoch.number > record.epoch.number else None


def save_heard(area: bytes, heard: Heard) -> None:
    """Durably."""
    durable.write_file(os.path.join(area, _NAME), json.dumps(to_plain(heard), indent=1).encode() + b"\n")


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
