"""A volume that lives twice with the same number of epoch: what its host remembers of that, durably. Ships to servers.

``split.json`` in the volume's area. It counts only as long as the volume has the epoch that it speaks of: whoever raises the
epoch has ended the split by that alone.
"""

from __future__ import annotations

import os
from typing import Optional

from voltool import durable
from voltool.errors import RefusedError
from voltool.model import Split, VolumeRecord
from voltool.showing import shown
from voltool.volumes.notes import read_note, save_note

_NAME = b"split.json"


def read_split(area: bytes, record: VolumeRecord) -> Optional[Split]:
    """The split that the volume of this area is in; None where it is in none. AgentError for one that cannot be understood."""
    split = read_note(area, _NAME, Split, "the record of the volume's split")
    return split if split is not None and split.mine == record.epoch else None


def save_split(area: bytes, split: Split) -> None:
    """Durably."""
    save_note(area, _NAME, split)


def remove_split(area: bytes) -> None:
    """It is over. Idempotent."""
    durable.remove_file(os.path.join(area, _NAME))


def refuse_split(area: bytes, record: VolumeRecord) -> None:
    """RefusedError, with where else the volume lives, while it is split."""
    split = read_split(area, record)
    if split is not None:
        raise RefusedError(
            "the volume is split: it lives on two hosts with the same epoch",
            where=shown(record.path),
            why=f"epoch {split.mine.number} here and at {split.home.host}:{shown(split.home.path)}; both are read-only",
            remedy=f"choose one of them: voltool replica promote {record.name} HOST --force; the other keeps its copy aside",
        )
