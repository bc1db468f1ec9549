"""Dumps of a home that was not the volume's any more when they were made: a promotion by force, or a catalog that is older than
it, lets an old home go on. What they have may be nowhere else, so they are kept; but somebody has to know. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable

from voltool.model import Epoch, StoredDump

#: By so much (ns) the clocks of two hosts may differ without a dump from before a move seeming to be one from after it.
_SKEW = 3600 * 1_000_000_000
#: Below it another token is no promotion's doing: a volume that was adopted anew has the first number again.
_FIRST_OF_A_SWITCH = 2


def later_home(dump: StoredDump, others: Iterable[StoredDump]) -> Epoch | None:
    """Of ``others``, dumps of the same volume that were there before ``dump`` was made, the epoch that its home did not know of:
    a higher one, or another with the same number. None: there is none."""
    own = dump.header.epoch
    rivals = (other.header.epoch for other in others if _is_rival(other.header.epoch, own))
    return max(rivals, key=lambda epoch: epoch.number, default=None)


def later_home_by_the_clock(dump: StoredDump, firsts: Iterable[StoredDump]) -> Epoch | None:
    """The same, where only the hosts' clocks tell which was there before. ``firsts``: of `first_of_each_home`."""
    made = dump.header.clone_time_ns
    return later_home(dump, (other for other in firsts if other.header.clone_time_ns + _SKEW < made))


def first_of_each_home(dumps: Iterable[StoredDump]) -> list[StoredDump]:
    """Of each epoch among the dumps of one volume the earliest: they are few."""
    firsts: dict[tuple[int, str], StoredDump] = {}
    for dump in dumps:
        header = dump.header
        known = firsts.get((header.epoch.number, header.epoch.token))
        if known is None or header.clone_time_ns < known.header.clone_time_ns:
            firsts[header.epoch.number, header.epoch.token] = dump
    return list(firsts.values())


def _is_rival(epoch: Epoch, own: Epoch) -> bool:
    if epoch.number == own.number >= _FIRST_OF_A_SWITCH:
        return epoch.token != own.token
    return epoch.number > own.number


def in_words(dump: StoredDump, later: Epoch) -> str:
    """Why the dump needs a look."""
    own = dump.header.epoch
    if own.number == later.number:
        return f"it is of one of two homes with the same epoch ({own.number}); {later.host} is the other one"
    return f"it is of a home that has been replaced: epoch {own.number}, where the volume had {later.number}, at {later.host}"
