"""How volumes stand and how moves went, as plain objects of docs/json.md. Pure; a test holds both together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltool.cli.json_lines import JsonObject, name_value, time_value
from voltool.cli.replica_lines import replica_object

if TYPE_CHECKING:
    from voltool.backup.standing import Standing
    from voltool.policy.latest import LatestDump
    from voltool.policy.moves import MoveRecord


def standing_object(each: Standing) -> JsonObject:
    """One volume."""
    return {
        "volume": each.volume.name,
        "uuid": each.volume.uuid,
        "host": each.volume.host,
        "path": name_value(each.volume.path),
        "schedule": each.schedule or None,
        "overdue": None if each.overdue is None else each.overdue.why,
        "newest": None if each.newest_ns is None else time_value(each.newest_ns),
        "dumps": each.dumps,
        "stored_bytes": each.stored_bytes,
        "levels": [_level_object(level) for level in each.latest],
        "suspicious": list(each.suspicious or ()),
        "last_exit": None if each.last is None else each.last.exit_code,
        "last_error": None if each.last is None else each.last.error or None,
        "unfinished_move": None if each.unfinished is None else move_object(each.unfinished),
        "replicas": [replica_object(replica) for replica in each.replicas],
    }


def _level_object(level: LatestDump) -> JsonObject:
    return {
        "level": level.level,
        "dump": level.dump_id,
        "time": time_value(level.clone_time_ns),
        "stored_bytes": level.stored_bytes,
        "seconds": round(level.seconds, 3),
        "dumps": level.dumps,
        "all_stored_bytes": level.all_stored_bytes,
    }


def move_object(move: MoveRecord) -> JsonObject:
    """One move."""
    return {
        "volume": move.volume,
        "from": {"host": move.from_host, "path": name_value(move.from_path)},
        "to": {"host": move.to_host, "path": name_value(move.to_path)},
        "outcome": move.outcome,
        "started": time_value(move.started_ns),
        "ended": time_value(move.ended_ns),
        "bytes": move.sent_bytes,
        "rounds": move.rounds,
        "locked_seconds": round(move.locked_seconds, 3),
        "may_be_nowhere": move.may_be_nowhere,
    }
