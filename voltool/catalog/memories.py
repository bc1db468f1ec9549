"""What happened: runs, moves, what looked suspicious; and replicas. Beside volumes and dumps, never needed to restore."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager

import sqlalchemy as sa

from voltool.catalog.schema import MOVES, REPLICAS, RUNS, SUSPICIOUS
from voltool.model import KnownReplica
from voltool.policy.moves import MoveRecord
from voltool.policy.runs import VolumeRun
from voltool.wire import codec


class Memories(ABC):
    """What `SqliteCatalog` remembers of events; see `voltool.backup.ports.Catalog`."""

    @abstractmethod
    def _transaction(self, *, immediate: bool = False) -> AbstractContextManager[sa.Connection]: ...

    def run_of(self, run_id: str | None = None) -> list[VolumeRun]:
        """All turns of a run, oldest first; without ``run_id`` of the one in which a turn ended last."""
        with self._transaction() as connection:
            if run_id is None:
                newest = sa.select(RUNS.c.run_id).order_by(RUNS.c.ended_ns.desc()).limit(1)
                run_id = connection.execute(newest).scalar()
            query = sa.select(RUNS.c.body).where(RUNS.c.run_id == run_id).order_by(RUNS.c.ended_ns)
            return [codec.from_plain(VolumeRun, json.loads(row.body)) for row in connection.execute(query)]

    def put_move(self, move: MoveRecord) -> None:
        """Remember a move, instead of what was remembered of this call; idempotent."""
        values = {
            "move_id": move.record_id,
            "volume_uuid": move.volume_uuid,
            "ended_ns": move.ended_ns,
            "body": json.dumps(codec.to_plain(move), separators=(",", ":")),
        }
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(MOVES).where(MOVES.c.move_id == move.record_id))
            connection.execute(sa.insert(MOVES), values)

    def moves(self, volume_uuid: str | None = None, since_ns: int = 0) -> list[MoveRecord]:
        """The moves whose last news are of ``since_ns`` or later, oldest first."""
        query = sa.select(MOVES.c.body).where(MOVES.c.ended_ns >= since_ns).order_by(MOVES.c.ended_ns)
        if volume_uuid is not None:
            query = query.where(MOVES.c.volume_uuid == volume_uuid)
        with self._transaction() as connection:
            return [codec.from_plain(MoveRecord, json.loads(row.body)) for row in connection.execute(query)]

    def last_moves(self) -> list[MoveRecord]:
        """Of each volume that was ever moved the last move."""
        last = (
            sa.select(MOVES.c.volume_uuid, sa.func.max(MOVES.c.ended_ns).label("ended_ns"))
            .group_by(MOVES.c.volume_uuid)
            .subquery()
        )
        is_last = sa.and_(MOVES.c.volume_uuid == last.c.volume_uuid, MOVES.c.ended_ns == last.c.ended_ns)
        with self._transaction() as connection:
            rows = connection.execute(sa.select(MOVES.c.body).join_from(MOVES, last, is_last))
            return [codec.from_plain(MoveRecord, json.loads(row.body)) for row in rows]

    def put_suspicious(self, volume_uuid: str, found: Mapping[str, str]) -> None:
        """Remember which of a volume's dumps are suspicious (by their ids), and why; instead of what was remembered of it."""
        values = [{"dump_id": dump_id, "volume_uuid": volume_uuid, "why": why} for dump_id, why in found.items()]
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(SUSPICIOUS).where(SUSPICIOUS.c.volume_uuid == volume_uuid))
            if values:
                connection.execute(sa.delete(SUSPICIOUS).where(SUSPICIOUS.c.dump_id.in_(list(found))))
                connection.execute(sa.insert(SUSPICIOUS), values)

    def suspicious(self) -> dict[str, dict[str, str]]:
        """By volume the dumps that were suspicious when it was last looked at, and why."""
        found: dict[str, dict[str, str]] = {}
        with self._transaction() as connection:
            for row in connection.execute(sa.select(SUSPICIOUS).order_by(SUSPICIOUS.c.dump_id)):
                found.setdefault(row.volume_uuid, {})[row.dump_id] = row.why
        return found

    def replicas(self, volume_uuid: str | None = None) -> list[KnownReplica]:
        """The replicas (of a volume), and former homes that have not heard of a promotion; by host."""
        query = sa.select(REPLICAS.c.body).order_by(REPLICAS.c.volume_uuid, REPLICAS.c.host, REPLICAS.c.replica_id)
        if volume_uuid is not None:
            query = query.where(REPLICAS.c.volume_uuid == volume_uuid)
        with self._transaction() as connection:
            return [codec.from_plain(KnownReplica, json.loads(row.body)) for row in connection.execute(query)]

    def put_replica(self, replica: KnownReplica) -> None:
        """Add or replace (by id)."""
        values = {
            "replica_id": replica.replica_id,
            "volume_uuid": replica.volume_uuid,
            "host": replica.host,
            "body": json.dumps(codec.to_plain(replica), separators=(",", ":")),
        }
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(REPLICAS).where(REPLICAS.c.replica_id == replica.replica_id))
            connection.execute(sa.insert(REPLICAS), values)

    def remove_replica(self, replica_id: str) -> None:
        """Forget it. Idempotent."""
        with self._transaction(immediate=True) as connection:
            connection.execute(sa.delete(REPLICAS).where(REPLICAS.c.replica_id == replica_id))
