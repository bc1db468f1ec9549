"""Which dump rests on which. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from voltool.model import StoredDump


def chain_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> tuple[StoredDump, ...]:
    """The chain that ``dump`` rests on, level 0 first and ``dump`` last, as far as it is known.

    A base is a dump of the base's state in the same store, by preference the very dump that was the base.
    """
    chain = [dump]
    seen = {dump.header.dump_id}
    while (base := base_of(chain[0], dumps)) is not None and base.header.dump_id not in seen:
        seen.add(base.header.dump_id)
        chain.insert(0, base)
    return tuple(chain)


def base_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> StoredDump | None:
    """The dump that ``dump`` is a difference to, if it is known."""
    header = dump.header
    if header.base_state_id is None:
        return None
    fitting = [
        other
        for other in dumps
        if other.totals.state_id == header.base_state_id
        and other.header.volume_uuid == header.volume_uuid
        and other.store == dump.store
        and other.header.dump_id != header.dump_id
    ]
    return max(fitting, key=lambda other: other.header.dump_id == header.base_dump_id, default=None)


def depth_of(dump: StoredDump, dumps: Sequence[StoredDump]) -> int:
    """How many dumps ``dump`` rests on."""
    return len(chain_of(dump, dumps)) - 1


def chain_ends(dumps: Sequence[StoredDump]) -> list[StoredDump]:
    """The dumps that none of the others rests on: their chains together are all dumps."""
    bases = {base.header.dump_id for dump in dumps if (base := base_of(dump, dumps)) is not None}
    return [dump for dump in dumps if dump.header.dump_id not in bases]
