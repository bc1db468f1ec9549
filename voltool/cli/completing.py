"""What the shell completes: names of volumes, ids of dumps, hosts. Asks the files alone, reads only, and never fails.

Imports nothing heavy: a person waits at the TAB key. Any fault means that nothing is offered.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from voltool.config import paths
from voltool.showing import shown
from voltool.statedir import state_directory

#: What is offered, with what stands beside it in shells that show that.
Offers = list[tuple[str, str]]

#: So many dumps are offered, newest first: nobody picks from more.
_MOST_DUMPS = 200


def volumes(incomplete: str) -> Offers:
    """Names of volumes, with where they are."""
    rows = _rows("SELECT name, host, path FROM volumes ORDER BY name")
    return [(name, f"{host}:{shown(bytes(path))}") for name, host, path in rows if name.startswith(incomplete)]


def dumps(incomplete: str) -> Offers:
    """Ids of dumps, newest first, with their time."""
    query = (
        "SELECT substr(dump_id, 1, 12), datetime(clone_time_ns / 1000000000, 'unixepoch', 'localtime') FROM dumps"
        " WHERE substr(dump_id, 1, ?) = ? ORDER BY clone_time_ns DESC LIMIT ?"
    )
    return [(dump_id, when) for dump_id, when in _rows(query, len(incomplete), incomplete, _MOST_DUMPS)]


def words(incomplete: str) -> Offers:
    """Volumes, and dumps where digits of one have been typed."""
    return volumes(incomplete) + (dumps(incomplete) if incomplete else [])


def hosts(incomplete: str) -> Offers:
    """Hosts of the configuration, of the volumes and of ~/.ssh/config."""
    found = {host: "of a volume" for (host,) in _rows("SELECT DISTINCT host FROM volumes")}
    found |= dict.fromkeys(_hosts_of_ssh(), "~/.ssh/config") | dict.fromkeys(_hosts_of_configuration(), "configuration")
    return [(host, where) for host, where in sorted(found.items()) if host.startswith(incomplete)]


def replica_hosts(incomplete: str) -> Offers:
    """Hosts that have replicas."""
    query = (
        "SELECT replicas.host, group_concat(DISTINCT name) FROM replicas JOIN volumes ON uuid = volume_uuid"
        " GROUP BY replicas.host ORDER BY replicas.host"
    )
    return [(host, f"replica of {names}") for host, names in _rows(query) if host.startswith(incomplete)]


def path_modes(incomplete: str) -> Offers:
    """How data can go from host to host."""
    modes = (("auto", "directly where that can be"), ("direct", "or not at all"), ("relay", "through this machine"))
    return [mode for mode in modes if mode[0].startswith(incomplete)]


def _rows(query: str, *values: object) -> list[tuple[Any, ...]]:
    import sqlite3

    path = paths.catalog_path(state_directory(os.environ, os.geteuid()))
    try:
        # Without immutable=1: what a running voltool has just written is seen too.
        with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=1)) as connection:
            return connection.execute(query, values).fetchall()
    except sqlite3.Error:
        return []


def _hosts_of_configuration() -> Iterator[str]:
    import tomllib

    for path in paths.config_candidates(os.environ):
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
            sections = tomllib.load(file).get("hosts")
            yield from sections if isinstance(sections, dict) else ()
            return


def _hosts_of_ssh() -> Iterator[str]:
    with contextlib.suppress(OSError, ValueError), open(os.path.expanduser("~/.ssh/config"), encoding="utf-8") as file:
        for line in file:
            if match := re.match(r"\s*Host\s+(.*)", line, re.IGNORECASE):
                yield from (name for name in match[1].split() if not re.search(r"[*?!]", name))
