"""Finds the dump that a command names and says which one it is, before anything is done with it."""

from __future__ import annotations

import time
from datetime import datetime

from voltool.backup.discover import dumps_meant, known_dumps
from voltool.backup.select import choose_dump
from voltool.cli import display, json_lines
from voltool.cli.invocation import Invocation
from voltool.cli.when import parse_when
from voltool.model import StoredDump


def all_dumps(invocation: Invocation, store: str | None = None) -> list[StoredDump]:
    """What the catalog knows and what lies in the configured stores besides. Slow where there is very much."""
    return known_dumps(invocation.world, store_urls(invocation, store))


def store_urls(invocation: Invocation, store: str | None = None) -> list[str]:
    """The stores of the configuration, or ``store`` and those of single volumes."""
    sections = invocation.settings.volumes.values()
    own = [invocation.store_url(explicit=section.store) for section in sections if section.store]
    return list(dict.fromkeys([invocation.store_url(explicit=store), *own]))


def choose(invocation: Invocation, word: str, at: str | None) -> StoredDump:
    """The dump of ``word`` and ``--at``; NotFoundError, UsageError."""
    at_ns = None if at is None else parse_when(at, datetime.now().astimezone())
    dumps = dumps_meant(invocation.world, store_urls(invocation), word)
    dump = choose_dump(word, at_ns, invocation.world.catalog.volumes(), dumps)
    announce(invocation, dump)
    return dump


def announce(invocation: Invocation, dump: StoredDump) -> None:
    """Id, time and age of what was chosen; on stderr, since stdout may be a file's content."""
    header = dump.header
    output = invocation.output
    if output.json:
        output.json_line(
            {
                "event": "chosen",
                "dump": header.dump_id,
                "volume": header.volume_name,
                "level": header.level,
                "time": json_lines.time_value(header.clone_time_ns),
                "age_seconds": round((time.time_ns() - header.clone_time_ns) / 1e9, 3),
            }
        )
        return
    moment = display.local_time(header.clone_time_ns)
    output.notice(
        "info",
        f"{header.volume_name}: dump {header.dump_id} (level {header.level}) of {moment},"
        f" {display.age(header.clone_time_ns)}",
    )
