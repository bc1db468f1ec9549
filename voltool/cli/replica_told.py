"""What became of replicas that were brought up to date, for people and machines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from voltool.backup.replicas import max_lag_of, place_of, replica_standings, wrongs
from voltool.cli import display
from voltool.cli.replica_lines import replica_object
from voltool.errors import VoltoolError
from voltool.model import LAZY
from voltool.policy.replicas import standing_of
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.cli.invocation import Invocation
    from voltool.cli.json_lines import JsonObject
    from voltool.replica.job import Synced
    from voltool.replica.pair import Round


def tell_synced(invocation: Invocation, done: Synced) -> None:
    """One replica: a line, or its error; it becomes part of the result and of the exit code."""
    name, now_ns = done.target.volume.name, time.time_ns()
    max_lag = max_lag_of(invocation.settings, name)
    standing = standing_of(name, done.target.replica, now_ns, max_lag)
    made: JsonObject = {"replica": replica_object(standing), "entries": None, "bytes": None, "seconds": None}
    if done.error is not None:
        invocation.failed(done.error, done.target.subject)
        if standing.is_stale:
            text = next(iter(wrongs(standing)))
            invocation.output.notice("warning", f"{done.target.subject}: {text}")
    elif done.round is not None:
        brought = done.round.brought
        for problem in brought.problems:
            text = f"{name}: {problem.problem.value}: {shown(problem.path)}: {problem.why}"
            invocation.output.notice("warning", text)
        text = f"{name}: {place_of(standing)} serves it as of {display.local_time(brought.clone_time_ns)}"
        invocation.output.summary(f"{text}: {_amounts(done.round)}")
        if standing.is_stale:
            invocation.output.notice("warning", f"{done.target.subject}: {'; '.join(wrongs(standing))}")
        made |= {"entries": brought.entries, "bytes": done.round.bytes, "seconds": round(brought.seconds, 3)}
    invocation.codes.append(done.exit_code(max_lag, now_ns))
    invocation.fields.setdefault("synced", []).append(made)


def _amounts(done: Round) -> str:
    status, brought = done.status, done.brought
    if status.replica.phase == LAZY:
        missing = f"{display.count(status.missing_files, 'file', 'files')}, {display.amount(status.missing_bytes)}"
        return f"lazily; {missing} still to come"
    entries = display.count(brought.entries, "entry", "entries")
    return f"{entries}, {display.amount(done.bytes)} sent, {display.duration(brought.seconds)}"


def write_metrics(invocation: Invocation) -> None:
    """The values of all replicas for node_exporter, where the configuration wants them; what goes wrong is a warning."""
    path = invocation.settings.notify.metrics
    if not path:
        return
    from voltool.nightly.metrics import write_replica_metrics

    try:
        by_volume = replica_standings(invocation.world.catalog, invocation.settings, time.time_ns())
        write_replica_metrics(path, [each for standings in by_volume.values() for each in standings])
    except (OSError, VoltoolError) as error:
        invocation.output.notice("warning", f"the metrics file of replicas beside {path} cannot be written: {error}")
