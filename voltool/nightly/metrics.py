"""What node_exporter's textfile collector reads: how all volumes stand, and the last run; replicas in a file of their own beside
it, which is written after each sync too. Imports prometheus-client, so late.

A file that is replaced atomically. Values of volumes that were not in this run come from the catalog, so that no series ends
because a volume was not due.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from voltool.backup.standing import Standing
from voltool.durable import write_file
from voltool.policy.replicas import REPLICA, ReplicaStanding
from voltool.policy.runs import RunReport

_VOLUME = ("volume",)
_LEVEL = ("volume", "level")
#: node_exporter is another user.
_MODE = 0o644


def write_metrics(path: str, report: RunReport, standings: Sequence[Standing]) -> None:
    """Replace the file at ``path``. Raises OSError."""
    registry = CollectorRegistry()
    _of_run(registry, report)
    _of_volumes(registry, standings)
    write_file(os.fsencode(path), generate_latest(registry), _MODE)


def replica_file(path: str) -> str:
    """Where the replicas' values lie, beside the file ``path`` of the runs: ``voltool.prom``, ``voltool-replicas.prom``."""
    stem, ending = os.path.splitext(path)
    return f"{stem}-replicas{ending}"


def write_replica_metrics(path: str, replicas: Iterable[ReplicaStanding]) -> None:
    """Replace the replicas' file beside ``path``. Raises OSError."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str) -> Gauge:
        return Gauge(f"voltool_replica_{name}", text, ("volume", "host"), registry=registry)

    lag = gauge(
        "lag_seconds", "How old the state was that the replica served when it was last looked at by this machine."
    )
    time = gauge("state_timestamp_seconds", "When the state that the replica serves was cloned.")
    clones = gauge("lag_clones", "By how many clones and dumps of the volume it was behind.")
    stale = gauge("stale", "1: older than max_lag.")
    missing = gauge("missing_bytes", "What a lazy replica had not fetched yet.")
    failed = gauge("sync_failed", "1: the last attempt to bring it up to date failed.")
    for each in replicas:
        if each.known.role != REPLICA:
            continue
        labels = (each.volume, each.known.host)
        if each.lag is not None:
            lag.labels(*labels).set(each.lag.seconds)
            clones.labels(*labels).set(each.lag.clones)
            time.labels(*labels).set(each.known.clone_time_ns / 1e9)
        stale.labels(*labels).set(each.is_stale)
        missing.labels(*labels).set(each.known.missing_bytes)
        failed.labels(*labels).set(bool(each.known.fault))
    write_file(os.fsencode(replica_file(path)), generate_latest(registry), _MODE)


def _of_run(registry: CollectorRegistry, report: RunReport) -> None:
    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"voltool_run_{name}", text, registry=registry).set(value)

    gauge("start_timestamp_seconds", "When the last run began.", report.started_ns / 1e9)
    gauge("end_timestamp_seconds", "When the last run ended.", report.ended_ns / 1e9)
    gauge("duration_seconds", "How long the last run took.", (report.ended_ns - report.started_ns) / 1e9)
    gauge("exit_code", "The exit code of the last run; 0 and 3 are good.", report.exit_code)
    gauge("faults", "What was wrong beside volumes in the last run.", len(report.faults))
    gauge("suspicious_dumps", "Dumps that the last run found suspicious.", len(report.alarms))
    gauge("unscheduled_volumes", "Volumes that are in no schedule.", len(report.unscheduled))
    gauge("stored_bytes", "Bytes that the last run added to stores.", sum(run.stored_bytes for run in report.volumes))
    outcomes = {"ok": 0, "partial": 0, "failed": 0}
    for run in report.volumes:
        outcomes["failed" if run.error else "ok" if run.exit_code == 0 else "partial"] += 1
    volumes = Gauge("voltool_run_volumes", "Volumes of the last run, by outcome.", ("outcome",), registry=registry)
    for outcome, number in outcomes.items():
        volumes.labels(outcome).set(number)


def _of_volumes(registry: CollectorRegistry, standings: Sequence[Standing]) -> None:
    def gauge(name: str, text: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"voltool_{name}", text, labels, registry=registry)

    success = gauge("last_success_timestamp_seconds", "The time of the newest dump.", _LEVEL)
    duration = gauge("last_dump_duration_seconds", "How long the newest dump took; 0: not known.", _LEVEL)
    stored = gauge("last_dump_stored_bytes", "The length of the newest dump.", _LEVEL)
    data = gauge("last_dump_data_bytes", "File content in the newest dump, before compression.", _LEVEL)
    dumps = gauge("dumps", "How many dumps there are.", _LEVEL)
    all_stored = gauge("stored_bytes", "The length of all dumps together.", _LEVEL)
    overdue = gauge("overdue", "1: a dump that was promised is missing.", _VOLUME)
    suspicious = gauge("suspicious_dumps", "Suspicious dumps that nobody has accepted.", _VOLUME)
    exit_code = gauge("last_exit_code", "The exit code of the last turn in a run.", _VOLUME)
    turn = gauge("last_turn_duration_seconds", "How long the last turn in a run took.", _VOLUME)
    for standing in standings:
        name = standing.volume.name
        for level in standing.latest:
            labels = (name, str(level.level))
            success.labels(*labels).set(level.clone_time_ns / 1e9)
            duration.labels(*labels).set(level.seconds)
            stored.labels(*labels).set(level.stored_bytes)
            data.labels(*labels).set(level.data_bytes)
            dumps.labels(*labels).set(level.dumps)
            all_stored.labels(*labels).set(level.all_stored_bytes)
        overdue.labels(name).set(standing.overdue is not None)
        suspicious.labels(name).set(len(standing.suspicious or ()))
        if standing.last is not None:
            exit_code.labels(name).set(standing.last.exit_code)
            turn.labels(name).set((standing.last.ended_ns - standing.last.started_ns) / 1e9)
