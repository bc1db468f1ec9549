"""Which dump rests on which. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from voltool.model import StoredDump


class Lineage:
    """Many dumps, and for each the one it rests on; made once, then each question costs no more than the chain is long.

    A base is a dump of the base's state in the same store, by preference the very dump that was the base.
    """

    def __init__(self, dumps: Iterable[StoredDump]) -> None:
        self._of_state: dict[tuple[str, str, str], list[StoredDump]] = {}
        for dump in dumps:
            self._of_state.setdefault((dump.header.volume_uuid, dump.store, dump.totals.state_id), []).append(dump)

    def base_of(self, dump: StoredDump) -> StoredDump | None:
        """The dump that ``dump`` is a difference to, if it is known."""
        header = dump.header
        if header.base_state_id is None:
            return None
        first = None
        for other in self._of_state.get((header.volume_uuid, dump.store, header.base_state_id), ()):
            if other.header.dump_id == header.dump_id:
                continue
            if other.header.dump_id == header.base_dump_id:
                return other
            first = first or other
        return first

    def chain_of(self, dump: StoredDump) -> tuple[StoredDump, ...]:
        """The chain that ``dump`` rests on, level 0 first and ``dump`` last, as far as it is known."""
        chain = [dump]
        seen = {dump.header.dump_id}
        while (base := self.base_of(chain[-1])) is not None and base.header.dump_id not in seen:
            seen.add(base.header.dump_id)
            chain.append(base)
        return tuple(reversed(chain))

    def depth_of(self, dump: StoredDump) -> int:
        """How many dumps ``dump`` rests on."""
        return len(self.chain_of(dump)) - 1

    def is_whole(self, dump: StoredDump) -> bool:
        """Whether all is known that ``dump`` rests on."""
        return self.chain_of(dump)[0].header.base_state_id is None


def chain_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> tuple[StoredDump, ...]:
    """See `Lineage.chain_of`."""
    return Lineage(dumps).chain_of(dump)


def base_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> StoredDump | None:
    """See `Lineage.base_of`; for more than one question, make a `Lineage`."""
    return Lineage(dumps).base_of(dump)


def depth_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> int:
    """See `Lineage.depth_of`; for more than one question, make a `Lineage`."""
    return Lineage(dumps).depth_of(dump)


def chain_ends(dumps: Sequence[StoredDump]) -> list[StoredDump]:
    """The dumps that none of the others rests on: their chains together are all dumps."""
    lineage = Lineage(dumps)
    bases = {base.header.dump_id for dump in dumps if (base := lineage.base_of(dump)) is not None}
    return [dump for dump in dumps if dump.header.dump_id not in bases]
