"""Which dump rests on which. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from voltool.model import StoredDump

#: What a point in time is known by: two dumps of one point restore to the same, whatever their levels.
Point = tuple[str, int, str, int, str]


def point_of(dump: StoredDump) -> Point:
    """The point in time that ``dump`` restores to: a merged dump has that of the newest of its chain."""
    header = dump.header
    return (header.volume_uuid, header.sequence, header.epoch.token, header.clone_time_ns, dump.totals.state_id)


class Lineage:
    """The dumps of any volumes and stores, with what each rests on.

    A base is a dump of the base's state, of a lower level, in the same store: the very dump that was the base or, where that
    point in time has been merged, the one of the lowest level; where it is gone, the latest such dump. So whatever is taken
    away, a dump can be read as long as one base that fits is left, and with it the base's own chain.
    """

    def __init__(self, dumps: Iterable[StoredDump]) -> None:
        self._of_state: dict[tuple[str, str, str], list[StoredDump]] = {}
        self._whole: dict[tuple[str, str], bool] = {}
        for dump in dumps:
            self._of_state.setdefault((dump.store, dump.header.volume_uuid, dump.totals.state_id), []).append(dump)

    def base_of(self, dump: StoredDump) -> StoredDump | None:
        """The dump that ``dump`` is a difference to, if it is known."""
        header = dump.header
        if header.base_state_id is None:
            return None
        alike = self._of_state.get((dump.store, header.volume_uuid, header.base_state_id), [])
        fitting = [other for other in alike if other.header.level < header.level]
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        named = next((other for other in fitting if other.header.dump_id == header.base_dump_id), None)
        if named is not None:
            fitting = [other for other in fitting if point_of(other) == point_of(named)]
        return max(fitting, key=lambda other: (*recency(other), other is named, other.header.dump_id))

    def chain_of(self, dump: StoredDump) -> tuple[StoredDump, ...]:
        """The chain that ``dump`` rests on, lowest level first and ``dump`` last, as far as it is known."""
        chain = [dump]
        while (base := self.base_of(chain[-1])) is not None:
            chain.append(base)  # levels fall, so this ends
        return tuple(reversed(chain))

    def depth_of(self, dump: StoredDump) -> int:
        """How many dumps ``dump`` rests on."""
        return len(self.chain_of(dump)) - 1

    def is_whole(self, dump: StoredDump) -> bool:
        """Whether all that ``dump`` rests on is known, so that it can be restored."""
        trail: list[tuple[str, str]] = []
        link: StoredDump | None = dump
        whole = False
        while link is not None:
            key = (link.store, link.header.dump_id)
            if key in self._whole:
                whole = self._whole[key]
                break
            trail.append(key)
            whole = link.header.base_state_id is None
            link = self.base_of(link)
        self._whole.update(dict.fromkeys(trail, whole))
        return whole


def recency(dump: StoredDump) -> tuple[int, int, int]:
    """What sorts the dumps of a volume: the newest last; of one point in time the one that needs the fewest others last."""
    return dump.header.sequence, dump.header.clone_time_ns, -dump.header.level


def chain_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> tuple[StoredDump, ...]:
    """The chain that ``dump`` rests on, level 0 first and ``dump`` last, as far as it is known; see `Lineage`."""
    return Lineage(dumps).chain_of(dump)


def base_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> StoredDump | None:
    """The dump that ``dump`` is a difference to, if it is known; see `Lineage`."""
    return Lineage(dumps).base_of(dump)


def depth_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> int:
    """How many dumps ``dump`` rests on."""
    return Lineage(dumps).depth_of(dump)


def chain_ends(dumps: Sequence[StoredDump]) -> list[StoredDump]:
    """The dumps that none of the others rests on: their chains together are all dumps."""
    lineage = Lineage(dumps)
    bases = {base.header.dump_id for dump in dumps if (base := lineage.base_of(dump)) is not None}
    return [dump for dump in dumps if dump.header.dump_id not in bases]
