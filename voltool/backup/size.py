"""How large a dump would be now, at each level: one walk of the volume, compared with what each level's base knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from voltool.backup.discover import known_dumps
from voltool.backup.dump import is_there
from voltool.backup.ports import World
from voltool.model import KnownVolume, StoredDump
from voltool.policy.chain import chain_of
from voltool.stores.contract import Store
from voltool.wire.conversation import expect
from voltool.wire.messages import Estimate, EstimateDump, EstimateReply

LEVELS = range(10)


@dataclass(frozen=True)
class LevelSize:
    """A dump at ``level``: its ``base`` (None: a full dump, whatever the level) and what it would read at the most; None where
    the host has no home stamps of the base, so that every file would be read and compared."""

    level: int
    base: StoredDump | None
    estimate: Estimate | None


@dataclass(frozen=True)
class VolumeSize:
    """``entries``: names in the tree, ``full``: what a full dump would read."""

    entries: int
    full: Estimate
    levels: tuple[LevelSize, ...]


def size_of(world: World, volume: KnownVolume, store_url: str, levels: Sequence[int] = LEVELS) -> VolumeSize:
    """Estimate ``levels`` with the dumps there are in ``store_url``. Nothing is changed. Raises VoltoolError."""
    store = world.stores.open(store_url)
    bases = _bases(world, store, volume, levels)
    states = list(dict.fromkeys(base.totals.state_id for base in bases.values() if base is not None))
    with world.hosts.connect(volume.host) as agent:
        agent.send(EstimateDump(volume.uuid, volume.path, tuple(states)))
        reply = expect(agent, EstimateReply)
    against = dict(zip(states, reply.against, strict=True))

    def estimate(base: StoredDump | None) -> Estimate | None:
        if base is None:
            return reply.full
        found = against[base.totals.state_id]
        return found if found.known else None

    sizes = tuple(LevelSize(level, base, estimate(base)) for level, base in bases.items())
    return VolumeSize(reply.entries, reply.full, sizes)


def _bases(world: World, store: Store, volume: KnownVolume, levels: Sequence[int]) -> dict[int, StoredDump | None]:
    """The base that a dump would have at each level, as `backup.dump` chooses it."""
    dumps = [
        dump
        for dump in known_dumps(world, [store.url])
        if dump.header.volume_uuid == volume.uuid and dump.store == store.url
    ]
    sound: dict[str, bool] = {}

    def whole(dump: StoredDump) -> bool:
        chain = chain_of(dump, dumps)
        for part in chain:
            if part.file not in sound:
                sound[part.file] = is_there(store, part)
        return chain[0].header.level == 0 and all(sound[part.file] for part in chain)

    newest_first = sorted(dumps, key=lambda dump: dump.header.sequence, reverse=True)
    return {
        level: next((dump for dump in newest_first if dump.header.level < level and whole(dump)), None)
        for level in levels
    }
