"""How dumps that retention judged, dropped or purged are told of: `prune`, `merge --replace`, `dumps --deleted|--accept`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from voltool.cli import display, json_lines
from voltool.cli.table import table

if TYPE_CHECKING:
    from voltool.backup.shelf import Discarded, Spared
    from voltool.cli.invocation import Invocation
    from voltool.policy.retention import Decision

_SECOND = 1_000_000_000


def decision_object(decision: Decision) -> json_lines.JsonObject:
    """What becomes of one dump."""
    header = decision.dump.header
    return {
        "dump": header.dump_id,
        "volume": header.volume_name,
        "level": header.level,
        "time": json_lines.time_value(header.clone_time_ns),
        "stored_bytes": decision.dump.totals.stored_bytes,
        "store": decision.dump.store,
        "keep": decision.keep,
        "why": list(decision.reasons),
    }


def spared_object(spared: Spared) -> json_lines.JsonObject:
    """One that should go and stays."""
    header = spared.dump.header
    return {"dump": header.dump_id, "volume": header.volume_name, "why": spared.why}


def discarded_object(each: Discarded, grace_of: Callable[[str], int]) -> json_lines.JsonObject:
    """One in a bin."""
    return {
        "dump": each.name.dump_id,
        "volume": each.name.volume,
        "level": each.name.level,
        "time": json_lines.time_value(each.name.time * _SECOND),
        "bytes": each.size,
        "store": each.store,
        "file": each.file,
        "since": json_lines.time_value(each.since_ns),
        "until": json_lines.time_value(each.since_ns + grace_of(each.name.volume) * _SECOND),
    }


def decision_lines(decisions: Sequence[Decision]) -> list[str]:
    """A table, each dump with every reason."""
    rows = [
        (
            display.short_id(decision.dump.header.dump_id),
            decision.dump.header.volume_name,
            str(decision.dump.header.level),
            display.local_time(decision.dump.header.clone_time_ns),
            display.amount(decision.dump.totals.stored_bytes),
            "keep" if decision.keep else "drop",
            "; ".join(decision.reasons),
        )
        for decision in decisions
    ]
    return table(("DUMP", "VOLUME", "LEVEL", "TIME", "STORED", "DECISION", "WHY"), rows, right=(4,)) if rows else []


def discarded_lines(found: Sequence[Discarded], grace_of: Callable[[str], int]) -> list[str]:
    """A table of what lies in bins, and until when."""
    rows = [
        (
            display.short_id(each.name.dump_id),
            each.name.volume,
            str(each.name.level),
            display.local_time(each.name.time * _SECOND),
            display.amount(each.size),
            display.local_time(each.since_ns),
            display.local_time(each.since_ns + grace_of(each.name.volume) * _SECOND),
            each.store,
        )
        for each in found
    ]
    heads = ("DUMP", "VOLUME", "LEVEL", "MADE", "STORED", "DROPPED", "KEPT UNTIL", "STORE")
    return table(heads, rows, right=(4,)) if rows else []


def total(sizes: Sequence[int]) -> str:
    """``3 dumps (12.0 MiB)``."""
    return f"{display.count(len(sizes), 'dump')} ({display.amount(sum(sizes))})"


def accept_dump(invocation: Invocation, word: str) -> int:
    """`voltool dumps --accept`: remembered by the catalog and in the dump's store, so that it outlives either."""
    from voltool.backup.accept import accept_point
    from voltool.backup.select import choose_dump
    from voltool.cli.choose import all_dumps

    dumps = all_dumps(invocation)
    dump = choose_dump(word, None, [], dumps)
    ids = accept_point(invocation.world, dump, dumps, time.time_ns())
    moment = display.local_time(dump.header.clone_time_ns)
    invocation.output.summary(f"{dump.header.volume_name}: dump {dump.header.dump_id} of {moment} is accepted")
    invocation.fields |= {"dumps": [json_lines.dump_object(dump)], "accepted": list(ids)}
    return invocation.finish()


def show_deleted(invocation: Invocation, name: str | None, store: str | None) -> int:
    """`voltool dumps --deleted`."""
    from voltool.backup.undelete import discarded_dumps
    from voltool.cli.choose import all_dumps, store_urls

    urls = [*store_urls(invocation, store), *(dump.store for dump in all_dumps(invocation, store))]
    found = [each for each in discarded_dumps(invocation.world, urls) if name in (None, each.name.volume)]

    def grace_of(volume: str) -> int:
        return invocation.settings.keep_of(volume).grace

    for line in discarded_lines(found, grace_of):
        invocation.output.line(line)
    if not found:
        invocation.output.notice("info", "nothing was dropped that could be undeleted")
    invocation.fields |= {"dumps": [], "deleted": [discarded_object(each, grace_of) for each in found]}
    return invocation.finish()
