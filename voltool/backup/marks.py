"""What retention must remember of a store's dumps, kept in the store itself, so that it survives a lost catalog.

A small file ``accepted.json`` beside the dumps. Losing it costs an alarm that comes again, never a dump; so what in it is
malformed counts as not there, and where it cannot be written (a full disk) the work goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from voltool.errors import VoltoolError
from voltool.stores.contract import Store

NAME = "accepted.json"
#: What was undeleted so long ago (s) is forgotten here.
_FORGOTTEN_AFTER = 400 * 86_400


@dataclass(frozen=True)
class Marks:
    """``accepted``: ids of suspicious dumps that somebody has looked at, and when (ns). ``judged``: volume uuid to the sequence
    up to which its dumps were found unsuspicious. ``undeleted``: ids of dumps that were brought back, and when (ns)."""

    accepted: Mapping[str, int] = field(default_factory=dict)
    judged: Mapping[str, int] = field(default_factory=dict)
    undeleted: Mapping[str, int] = field(default_factory=dict)


def read_marks(store: Store) -> Marks:
    """The store's marks; empty ones where there are none, or none that can be read."""
    try:
        data = store.get_aside(NAME)
        picture = json.loads(data) if data is not None else {}
    except (VoltoolError, ValueError, RecursionError):
        return Marks()
    if not isinstance(picture, dict):
        return Marks()
    return Marks(*(_numbers(picture.get(name)) for name in ("accepted", "judged", "undeleted")))


def _numbers(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {key: number for key, number in value.items() if type(number) is int}


def accept(store: Store, dump_ids: tuple[str, ...], now_ns: int) -> None:
    """Remember that somebody has looked at the dumps; VoltoolError where the store cannot be written to."""
    marks = read_marks(store)
    _write(store, replace(marks, accepted={**marks.accepted, **dict.fromkeys(dump_ids, now_ns)}))


def note_undeleted(store: Store, dump_ids: tuple[str, ...], now_ns: int) -> None:
    """Remember that the dumps were brought back; VoltoolError where the store cannot be written to."""
    marks = read_marks(store)
    recent = {dump_id: at for dump_id, at in marks.undeleted.items() if at > now_ns - _FORGOTTEN_AFTER * 1_000_000_000}
    _write(store, replace(marks, undeleted={**recent, **dict.fromkeys(dump_ids, now_ns)}))


def note_judged(store: Store, volume_uuid: str, sequence: int) -> None:
    """Remember how far the volume's dumps were found unsuspicious; VoltoolError where the store cannot be written to."""
    marks = read_marks(store)
    if marks.judged.get(volume_uuid, -1) < sequence:
        _write(store, replace(marks, judged={**marks.judged, volume_uuid: sequence}))


def _write(store: Store, marks: Marks) -> None:
    store.put_aside(NAME, json.dumps(asdict(marks), indent=1, sort_keys=True).encode() + b"\n")
