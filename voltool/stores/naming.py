"""The names of dump files in a store: ``<volume>/<UTC time>-L<level>-<dump id>.voltool``. The one module that knows them.

A name is for people and for finding dumps; what counts is the dump's own header. No I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from voltool.errors import UsageError

SUFFIX = ".voltool"

#: What a volume may be called: a letter first (so that no name is taken for a dump id's digits), no separators.
_VOLUME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
_NAME = re.compile(
    r"(?P<volume>[A-Za-z][A-Za-z0-9._-]{0,99})/"
    r"(?P<time>\d{8}T\d{6}Z)-L(?P<level>\d{1,4})-(?P<dump_id>[0-9a-f]{32})\.voltool"
)
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class DumpName:
    """What the name of a dump file says. ``time`` is whole seconds since the epoch (UTC)."""

    volume: str
    time: int
    level: int
    dump_id: str


def check_volume_name(name: str) -> None:
    """Raise UsageError unless ``name`` can be a volume's name (and thus a directory in a store)."""
    if not _VOLUME.fullmatch(name):
        raise UsageError(
            f"{name!a} cannot be the name of a volume",
            why="a name begins with a letter and has up to 100 letters, digits, dots, dashes and underscores",
            remedy="another name",
        )


def format_name(volume: str, clone_time_ns: int, level: int, dump_id: str) -> str:
    """The name of a dump's file. Raises UsageError for a volume name that is not safe."""
    check_volume_name(volume)
    moment = datetime.fromtimestamp(clone_time_ns // 1_000_000_000, UTC)
    return f"{volume}/{moment.strftime(_TIME)}-L{level}-{dump_id}{SUFFIX}"


def parse_name(name: str) -> DumpName | None:
    """What the name says; None where it is not the name of a dump."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        moment = datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None
    return DumpName(match["volume"], int(moment.timestamp()), int(match["level"]), match["dump_id"])
