"""What a run of `voltool backup` did, as plain data: made by nightly, remembered by the catalog, told by notices and reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VolumeRun:
    """One volume's turn in a run. ``volume_uuid`` and ``host`` are empty where the catalog knows no volume of that name.

    ``level``: what the schedule wanted, on the local date ``day`` (ISO; empty: not known); ``made_level``: what was made (0 where
    a base was missing), None where nothing was.
    ``why``: why this level at this time, in words. ``error`` is empty when all went well, also with ``exit_code`` 3.
    Times in ns of the CLI's clock; ``stored_bytes`` of the dump; ``attempts`` counts tries, 0: it was never begun.
    """

    run_id: str
    volume: str
    volume_uuid: str
    host: str
    level: int
    started_ns: int
    ended_ns: int
    exit_code: int
    attempts: int = 1
    why: str = ""
    made_level: int | None = None
    dump_id: str | None = None
    stored_bytes: int = 0
    error: str = ""
    warnings: tuple[str, ...] = ()
    day: str = ""


@dataclass(frozen=True)
class RunReport:
    """A whole run. ``unscheduled``: volumes that are known and in no schedule. ``faults``: what is wrong beside volumes (a
    malformed line of the configuration, retention that failed). ``alarms``: dumps that are suspicious, in words."""

    run_id: str
    started_ns: int
    ended_ns: int
    exit_code: int
    volumes: tuple[VolumeRun, ...] = ()
    unscheduled: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    alarms: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class UpkeepOutcome:
    """What the upkeep of a volume did after its dump. ``merged``: the id of a synthetic full that was made, or None; ``dropped``:
    ids of dumps that retention dropped; ``alarms``: suspicious dumps, in words; ``faults``: what went wrong, in words."""

    merged: str | None = None
    dropped: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
