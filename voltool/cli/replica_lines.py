"""Replicas as plain objects of docs/json.md. Pure; a test holds both together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltool.cli.json_lines import JsonObject, name_value, time_value

if TYPE_CHECKING:
    from voltool.policy.replicas import ReplicaStanding


def replica_object(each: ReplicaStanding) -> JsonObject:
    """One replica, or a former home that has not heard of a promotion."""
    known, lag = each.known, each.lag
    return {
        "volume": each.volume,
        "host": known.host,
        "path": name_value(known.path),
        "state": each.state,
        "role": known.role,
        "phase": known.phase,
        "lag_seconds": None if lag is None else round(lag.seconds, 3),
        "lag_clones": None if lag is None else lag.clones,
        "max_lag": each.max_lag,
        "stale": each.is_stale,
        "time": time_value(known.clone_time_ns) if known.clone_time_ns else None,
        "missing_bytes": known.missing_bytes,
        "way": each.way or None,
        "seen": time_value(known.checked_ns) if known.checked_ns else None,
        "fault": known.fault or None,
        "faults": list(each.faults),
        "silent": each.silent or None,
    }
