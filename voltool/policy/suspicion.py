"""Which dumps are suspicious: they change or lose far more than the volume's dumps usually do. Pure: no I/O.

Encrypting a volume's files changes most of them at once, leaves data that does not compress, or removes what was there; so
does an accident. Whoever is told of it still has the dumps from before: nothing of the volume is pruned until somebody has
looked. Few dumps say nothing of what is usual, and small amounts happen every day: of these there is no alarm.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from voltool.model import StoredDump
from voltool.policy import superseded
from voltool.policy.chain import point_of, recency
from voltool.policy.superseded import first_of_each_home, later_home_by_the_clock

#: So many dumps must show what is usual; of more, the latest so many do.
_LEAST_HISTORY = 3
_HISTORY = 20
#: Below these no change is worth an alarm: bytes; share of the volume's data; entries; share of the entries.
_LEAST_BYTES = 1 << 20
_LEAST_SHARE = 0.02
_LEAST_ENTRIES = 10
_LEAST_LOST_SHARE = 0.2
#: Data of less than this share of the volume may be of any kind; and what never compressed by so much cannot collapse.
_RATIO_SHARE = 0.2
_LEAST_SAVING = 0.1
_NAMED = 12


@dataclass(frozen=True)
class Suspicion:
    """A dump that needs a look; ``why`` in words."""

    dump: StoredDump
    why: str


def suspicious(
    dumps: Sequence[StoredDump], factor: float, accepted: Collection[str] = (), judged: int = -1
) -> list[Suspicion]:
    """The suspicious ones among the dumps of one volume, oldest first.

    ``factor``: so many times what is usual. ``accepted``: ids that somebody has looked at; they are part of what is usual.
    ``judged``: dumps up to this sequence have been judged before: retention thins out what lies between old dumps, so that
    comparing them anew would see jumps that never were. A dump of a home that had been replaced is suspicious in any case, and
    never part of what is usual.
    """
    found: list[Suspicion] = []
    usual: list[StoredDump] = []
    firsts = first_of_each_home(dumps)
    for dump in _as_taken(dumps):
        later = later_home_by_the_clock(dump, firsts)
        why = superseded.in_words(dump, later) if later is not None else ""
        if not why and dump.header.sequence > judged:
            why = _why(dump, usual, factor)
        if why and dump.header.dump_id not in accepted:
            found.append(Suspicion(dump, why))
        elif later is None:
            usual.append(dump)
    return found


def _as_taken(dumps: Sequence[StoredDump]) -> list[StoredDump]:
    """Each point in time once, by the dump that was taken of it: a merged one holds what its whole chain does."""
    taken: dict[object, StoredDump] = {}
    for dump in sorted(dumps, key=recency):
        taken.setdefault(point_of(dump), dump)
    return list(taken.values())


def _why(dump: StoredDump, before: Sequence[StoredDump], factor: float) -> str:
    level = dump.header.level
    alike = [other for other in before if other.header.level == level][-_HISTORY:]
    fulls = [other.totals.data_bytes for other in before if other.header.level == 0]
    size = fulls[-1] if fulls else 0
    complaints = [_lost(dump, before, factor)]
    if len(alike) >= _LEAST_HISTORY:
        if level:
            complaints.append(_changed(dump, alike, size, factor))
        complaints.append(_collapsed(dump, alike, size, factor))
    return "; ".join(filter(None, complaints))


def _changed(dump: StoredDump, alike: Sequence[StoredDump], size: int, factor: float) -> str:
    changed = dump.totals.data_bytes
    median = statistics.median(other.totals.data_bytes for other in alike)
    if changed <= factor * median or changed <= max(_LEAST_BYTES, _LEAST_SHARE * size):
        return ""
    return f"it changes {changed:,} bytes, where level {dump.header.level} usually changes {median:,.0f}"


def _lost(dump: StoredDump, before: Sequence[StoredDump], factor: float) -> str:
    if len(before) < _LEAST_HISTORY:
        return ""
    recent = [other.totals.entries for other in before[-_HISTORY:]]
    last = recent[-1]
    lost = last - dump.totals.entries
    usually = statistics.median(max(0, one - other) for one, other in itertools.pairwise(recent))
    if lost <= factor * usually or lost <= max(_LEAST_ENTRIES, _LEAST_LOST_SHARE * last):
        return ""
    return f"it has lost {lost:,} of {last:,} entries since the dump before, where {usually:,.0f} usually go"


def _collapsed(dump: StoredDump, alike: Sequence[StoredDump], size: int, factor: float) -> str:
    """What used to compress does not any more. A file that is encrypted does not."""
    if dump.totals.data_bytes <= max(_LEAST_BYTES, _RATIO_SHARE * size):
        return ""
    usually = statistics.median(_saving(other) for other in alike)
    saved = _saving(dump)
    if usually < _LEAST_SAVING or saved >= usually / factor:
        return ""
    return f"compression saves {max(0.0, saved):.0%} of its data, where it usually saves {usually:.0%}"


def _saving(dump: StoredDump) -> float:
    data = dump.totals.data_bytes
    return 1 - dump.totals.stored_bytes / data if data else 0.0


def in_words(suspicion: Suspicion) -> str:
    """The alarm."""
    header = suspicion.dump.header
    return (
        f"{header.volume_name}: dump {header.dump_id[:_NAMED]} (level {header.level}) is suspicious: {suspicion.why};"
        f" nothing of the volume is pruned until it has been looked at: voltool dumps --accept {header.dump_id[:_NAMED]}"
    )
