"""Which dump is meant by a name, an id prefix and a time; and which dumps it rests on. Pure: no I/O.

A volume's newest dump is the one of the highest sequence, not of the latest time: clocks are set, sequences are not. Of one point
in time that was merged, it is the one that needs the fewest others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from voltool.errors import NotFoundError, UsageError
from voltool.model import KnownVolume, StoredDump
from voltool.policy.chain import recency

_HEX = re.compile(r"[0-9a-f]{1,32}")
#: How many dumps an error names.
_NAMED = 8


def choose_dump(
    word: str, at_ns: int | None, volumes: Sequence[KnownVolume], dumps: Sequence[StoredDump]
) -> StoredDump:
    """The dump that ``word`` (a volume's name or a unique prefix of a dump's id) means.

    Of a volume the newest, with ``at_ns`` the newest that is not later. A volume's name wins over an id. Raises
    NotFoundError (unknown, ambiguous, nothing that old), UsageError for a time together with an id.
    """
    of_volume = dumps_of_name(word, volumes, dumps)
    if of_volume:
        return _newest(word, at_ns, of_volume)
    if word in {volume.name for volume in volumes}:
        raise NotFoundError(f"the volume {word} has no dump yet", remedy=f"voltool dump {word}")
    dump = _by_prefix(word, dumps)
    if at_ns is not None:
        raise UsageError(
            f"{word} is one dump, and --at chooses among dumps",
            remedy=f"without --at, or with the volume's name, {dump.header.volume_name}",
        )
    return dump


def dumps_of_name(name: str, volumes: Sequence[KnownVolume], dumps: Sequence[StoredDump]) -> list[StoredDump]:
    """The dumps of the volume called ``name``, or, where no volume is called so now, of the one that was.

    Raises NotFoundError where several volumes that are gone had the name.
    """
    for volume in volumes:
        if volume.name == name:
            return [dump for dump in dumps if dump.header.volume_uuid == volume.uuid]
    found = [dump for dump in dumps if dump.header.volume_name == name]
    if len({dump.header.volume_uuid for dump in found}) > 1:
        raise NotFoundError(
            f"several volumes were called {name}", why=_listing(found), remedy="the id of the dump instead of the name"
        )
    return found


def _newest(name: str, at_ns: int | None, dumps: Sequence[StoredDump]) -> StoredDump:
    wanted = [dump for dump in dumps if at_ns is None or dump.header.clone_time_ns <= at_ns]
    if not wanted:
        oldest = min(dumps, key=lambda dump: dump.header.clone_time_ns)
        raise NotFoundError(
            f"the volume {name} has no dump that old",
            why=f"the oldest is {oldest.header.dump_id[:12]}",
            remedy=f"voltool dumps {name}",
        )
    return max(wanted, key=recency)


def _by_prefix(word: str, dumps: Sequence[StoredDump]) -> StoredDump:
    prefix = word.lower()
    found = [dump for dump in dumps if _HEX.fullmatch(prefix) and dump.header.dump_id.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFoundError(
            f"{word} is the beginning of several dumps' ids", why=_listing(found), remedy="more digits of the id"
        )
    raise NotFoundError(
        f"there is no volume and no dump {word!a}", remedy="voltool volume list and voltool dumps, to see what there is"
    )


def _listing(dumps: Sequence[StoredDump]) -> str:
    named = [f"{dump.header.dump_id} ({dump.header.volume_name})" for dump in dumps[:_NAMED]]
    more = len(dumps) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
