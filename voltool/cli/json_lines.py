"""What `--json` prints, as plain objects: the machine interface of docs/json.md. Pure; a test holds both together."""

from __future__ import annotations

import base64
import stat
from datetime import UTC, datetime
from typing import Any

from voltool.browse.diff_records import Outcome
from voltool.browse.history import Found, Version
from voltool.dumpfile.format import ObjectRecord, decode_object
from voltool.errors import EXIT_DONE, EXIT_PARTIAL, VoltoolError
from voltool.events import (
    Event,
    Locked,
    Notice,
    PhaseEnded,
    PhaseStarted,
    Progressed,
    Step,
    StepEnded,
    StepStarted,
    Unlocked,
)
from voltool.model import CloneInfo, FileProblem, KnownVolume, Problem, StoredDump
from voltool.wire.messages import HostFact, LockInfo

JsonObject = dict[str, Any]

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "character",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def name_value(name: bytes) -> str | JsonObject:
    """A name: text where it is UTF-8, else ``{"b64": ...}`` with its bytes."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(name).decode()}


def time_value(time_ns: int) -> str:
    """A time in UTC with nanoseconds: ``2026-10-05T14:00:01.000000000Z``."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{nanoseconds:09d}Z"


def dump_object(dump: StoredDump) -> JsonObject:
    """One dump."""
    header, totals = dump.header, dump.totals
    return {
        "id": header.dump_id,
        "volume": header.volume_name,
        "level": header.level,
        "base": header.base_dump_id,
        "time": time_value(header.clone_time_ns),
        "consistency": header.consistency.value,
        "entries": totals.entries,
        "data_bytes": totals.data_bytes,
        "stored_bytes": totals.stored_bytes,
        "seconds": round(dump.seconds, 3),
        "unreadable": problem_paths(dump.problems, Problem.UNREADABLE),
        "unstable": problem_paths(dump.problems, Problem.UNSTABLE),
        "store": dump.store,
        "file": dump.file,
    }


def problem_paths(problems: tuple[FileProblem, ...], kind: Problem) -> list[str | JsonObject]:
    """The paths of the problems of one kind."""
    return [name_value(problem.path) for problem in problems if problem.problem is kind]


def problem_object(problem: FileProblem) -> JsonObject:
    """One problem of a restore."""
    return {"problem": problem.problem.value, "path": name_value(problem.path), "why": problem.why}


def volume_object(volume: KnownVolume) -> JsonObject:
    """One volume."""
    return {
        "name": volume.name,
        "uuid": volume.uuid,
        "host": volume.host,
        "path": name_value(volume.path),
        "driver": volume.driver,
        "excludes": [name_value(glob) for glob in volume.excludes],
    }


def clone_object(clone: CloneInfo) -> JsonObject:
    """One clone on a volume's host."""
    return {
        "id": clone.id,
        "path": name_value(clone.path),
        "time": time_value(clone.time_ns),
        "consistency": clone.consistency.value,
        "for": clone.purpose,
    }


def held_object(lock: LockInfo | None) -> JsonObject | None:
    """A lock that stands."""
    if lock is None:
        return None
    return {
        "owner": lock.owner,
        "since": time_value(lock.since * 1_000_000_000),
        "until": time_value(lock.until * 1_000_000_000),
    }


def entry_object(name: bytes, record: ObjectRecord, target: bytes) -> JsonObject:
    """One name of a directory in a dump."""
    return {
        "event": "entry",
        "name": name_value(name),
        "type": _TYPES.get(stat.S_IFMT(record.mode), "unknown"),
        "mode": f"{stat.S_IMODE(record.mode):04o}",
        "uid": record.uid,
        "gid": record.gid,
        "size": record.size,
        "mtime": time_value(record.mtime_s * 1_000_000_000 + record.mtime_ns),
        "target": name_value(target) if stat.S_ISLNK(record.mode) else None,
    }


def found_object(found: Found) -> JsonObject:
    """A path that `find` found."""
    return {
        "event": "found",
        "volume": found.volume,
        "path": name_value(found.path),
        "versions": [version_object(version) for version in found.versions],
        "gone": None if found.gone is None else found.gone.dump_id,
        "gone_time": None if found.gone is None else time_value(found.gone.time_ns),
    }


def version_object(version: Version) -> JsonObject:
    """One version of a path."""
    return {
        "type": _TYPES.get(stat.S_IFMT(version.mode), "unknown"),
        "mode": f"{stat.S_IMODE(version.mode):04o}",
        "size": version.size,
        "mtime": None if version.mtime_ns is None else time_value(version.mtime_ns),
        "first": version.first.dump_id,
        "first_time": time_value(version.first.time_ns),
        "last": version.last.dump_id,
        "last_time": time_value(version.last.time_ns),
        "dumps": version.dumps,
    }


def difference_object(outcome: Outcome) -> JsonObject:
    """One difference between two points in time."""
    old, new = (decode_object(record) if record else None for record in (outcome.old, outcome.new))
    shown = new or old
    assert shown is not None
    return {
        "event": "difference",
        "kind": outcome.kind,
        "path": name_value(outcome.path),
        "old_path": None if outcome.old_path is None else name_value(outcome.old_path),
        "type": _TYPES.get(stat.S_IFMT(shown.mode), "unknown"),
        "changes": [change.value for change in outcome.changes],
        "old_size": None if old is None else old.size,
        "size": None if new is None else new.size,
    }


def fact_object(fact: HostFact) -> JsonObject:
    """One line of a host check."""
    return {"topic": fact.topic, "ok": fact.ok, "value": fact.value, "try": fact.remedy}


def event_object(event: Event) -> JsonObject:
    """One event."""
    if isinstance(event, Notice):
        return {"event": "notice", "severity": event.severity, "message": event.message}
    if isinstance(event, StepStarted | StepEnded | Locked | Unlocked):
        return _step_object(event)
    named = {"subject": event.subject, "phase": event.phase}
    if isinstance(event, PhaseStarted):
        return {"event": "started", **named, "total_bytes": event.total_bytes, "total_files": event.total_files}
    if isinstance(event, Progressed):
        return {"event": "progress", **named, "bytes": event.bytes, "files": event.files}
    assert isinstance(event, PhaseEnded)
    return {"event": "ended", **named}


def _step_object(event: Step) -> JsonObject:
    if isinstance(event, StepStarted):
        return {"event": "step", "subject": event.subject, "step": event.step, "to_come": list(event.to_come)}
    if isinstance(event, Locked):
        return {"event": "locked", "subject": event.subject, "limit_seconds": event.limit}
    seconds = round(event.seconds, 3)
    if isinstance(event, Unlocked):
        return {"event": "unlocked", "subject": event.subject, "seconds": seconds, "switched": event.switched}
    done: JsonObject = {"event": "step_ended", "subject": event.subject, "step": event.step, "ok": event.ok}
    done["seconds"] = seconds
    if event.bytes is not None:
        done |= {"bytes": event.bytes, "entries": event.entries}
    if event.predicted_downtime is not None:
        done |= {"predicted_downtime_seconds": round(event.predicted_downtime, 3), "why_stop": event.why_stop}
    return done


def error_object(error: VoltoolError) -> JsonObject:
    """One error."""
    return {"kind": error.kind, "what": error.what, "where": error.where, "why": error.why, "try": error.remedy}


def result_object(command: str, code: int, fields: JsonObject, error: VoltoolError | None = None) -> JsonObject:
    """The last line: ``ok`` says whether the command did its job (exit code 0, or 3: some files have problems)."""
    result: JsonObject = {"event": "result"}
    if command:
        result["command"] = command
    result |= {"ok": code in (EXIT_DONE, EXIT_PARTIAL), "exit": code, **fields}
    if error is not None:
        result["error"] = error_object(error)
    return result
