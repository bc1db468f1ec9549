"""A suspicious dump that somebody has looked at, remembered by the catalog and in its store, so that it outlives either.

What is accepted is the point in time: all dumps that stand for it, merged ones too.
"""

from __future__ import annotations

from collections.abc import Sequence

from voltool.backup import marks
from voltool.backup.ports import World
from voltool.errors import VoltoolError
from voltool.events import Notice
from voltool.model import StoredDump
from voltool.policy.chain import point_of
from voltool.stores.contract import Store


def accept_point(world: World, dump: StoredDump, known: Sequence[StoredDump], now_ns: int) -> tuple[str, ...]:
    """Accept ``dump`` and those of ``known`` that stand for the same point in time; their ids, its own first.

    A store that cannot be written to is a warning.
    """
    alike = [other for other in known if point_of(other) == point_of(dump) and other.store == dump.store]
    ids = tuple(dict.fromkeys(each.header.dump_id for each in (dump, *alike)))
    for dump_id in ids:
        world.catalog.accept_dump(dump_id)
    try:
        marks.accept(world.stores.open(dump.store), ids, now_ns)
    except VoltoolError as error:
        text = f"accepted; only the catalog knows it, not the store: {error}"
        world.reporter.report(Notice("warning", text))
    return ids


def is_accepted(world: World, store: Store, dump: StoredDump) -> bool:
    """Whether somebody has looked at ``dump``."""
    dump_id = dump.header.dump_id
    return dump_id in world.catalog.accepted() or dump_id in marks.read_marks(store).accepted
