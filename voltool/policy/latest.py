"""The newest dump of a volume at each level, and how much there is of it: what overviews are made of. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LatestDump:
    """The newest dump (highest sequence) of a volume at ``level``. ``volume_name`` as it was called then; ``problems``: how many
    files of it have one.

    ``dumps``, ``all_stored_bytes`` and ``all_data_bytes`` are those of all dumps of the volume at this level together.
    """

    volume_uuid: str
    volume_name: str
    level: int
    dump_id: str
    sequence: int
    clone_time_ns: int
    store: str
    entries: int
    stored_bytes: int
    data_bytes: int
    seconds: float
    problems: int
    dumps: int
    all_stored_bytes: int
    all_data_bytes: int
