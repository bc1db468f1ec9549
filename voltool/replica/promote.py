"""`voltool replica promote`: a replica becomes the volume's home, or one of two homes with the same epoch is chosen.

Before it, everybody who may know of an epoch is asked, so that the new one is higher than any. The catalog first remembers
that the old home has to hear of it: a command that is cut off later leaves nobody untold.
"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass

from voltool.errors import NotFoundError, RefusedError, UnreachableError, VoltoolError
from voltool.events import Notice
from voltool.model import (
    LAZY,
    NO_HOOKS,
    PROMOTING,
    SERVING,
    Epoch,
    Hooks,
    KnownVolume,
    Peer,
    ReplicaRecord,
    VolumeRecord,
)
from voltool.policy.homes import Claim, highest_epoch, judge
from voltool.policy.replicas import FORMER
from voltool.replica.contact import TellSettings, Told, ask_all, former_row, settle_homes
from voltool.replica.lacking import missing_names
from voltool.replica.ports import World
from voltool.showing import shown
from voltool.wire import messages, replicas
from voltool.wire.conversation import Conversation, expect

#: So many dumps an old home may make before it is told, and none of them counts as the volume's newest.
_ROOM = 100


#: So many missing files are named in an error.
_NAMED = 10


class LacksFilesError(RefusedError):
    """A lazy replica is not full; ``missing``: files that have not come, by name."""

    missing: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class PromoteWish:
    """Promote the replica of ``name`` on ``host``; ``force``: though the old home is, or may be, alive. ``lock_timeout``:
    how long to wait there for who still writes, seconds. ``name_all``: all that is missing of it shall be known by name."""

    name: str
    host: str
    force: bool = False
    hooks: Hooks = NO_HOOKS
    lock_timeout: int = 30
    name_all: bool = False


@dataclass(frozen=True)
class PromoteOutcome:
    """``record``: the volume at its new home; ``old_host``, ``old_path``: where it lived; ``told``: what became of telling
    those who took themselves for its home. ``untold``: hosts that accept writes as an old home until they are contacted."""

    record: VolumeRecord
    host: str
    old_host: str
    old_path: bytes
    told: tuple[Told, ...] = ()
    untold: tuple[str, ...] = ()
    hook_failed: str = ""


@dataclass(frozen=True)
class _Survey:
    """What all hosts said; ``silent``: why the old home said nothing."""

    claims: list[Claim]
    silent: dict[str, str]

    def of(self, host: str) -> Claim | None:
        """What that host said."""
        return next((claim for claim in self.claims if claim.host == host), None)

    def unheard(self, volume: KnownVolume) -> list[Peer]:
        """Hosts that may be the volume's home, as the catalog or other hosts have it, and said nothing."""
        named = [Peer(volume.host, "", "", volume.path)]
        away = (replicas.AWAY, replicas.LEAVING, replicas.BETWEEN)
        homes = [claim.standing.home for claim in self.claims if claim.standing.standing in away]
        named += [home for home in homes if home is not None]
        return list({peer.host: peer for peer in named if peer.host in self.silent}.values())


def promote(world: World, wish: PromoteWish) -> PromoteOutcome:
    """Make the replica the volume's home. RefusedError where the old home is or may be alive and ``force`` is not set;
    where the replica is not full. NotFoundError where there is none. Can be repeated: what was cut off is gone on with."""
    volume = world.catalog.volume(wish.name)
    others = [row.host for row in world.catalog.replicas(volume.uuid)]
    claims, silent = ask_all(world, volume, [volume.host, wish.host, *others])
    survey = _Survey(claims, silent)
    target = survey.of(wish.host)
    if target is None:
        raise UnreachableError(
            "the replica's host cannot be asked",
            where=wish.host,
            why=silent.get(wish.host, ""),
            remedy="try again, or another replica",
        )
    if target.standing.standing == replicas.HOME:
        return _at_a_home(world, volume, wish, survey, target)
    _check_old_homes(volume, wish, survey)
    return _promote_replica(world, volume, wish, survey)


def _at_a_home(world: World, volume: KnownVolume, wish: PromoteWish, survey: _Survey, target: Claim) -> PromoteOutcome:
    """The host is the home already: a promotion that was cut off is finished, one of several homes is chosen."""
    verdict = judge(survey.claims)
    if verdict.winner is target and target.standing.split is None:
        promoted = _finish(world, volume, wish, target)
        untold = any(row.role == FORMER for row in world.catalog.replicas(volume.uuid))
        if volume.host == wish.host and not verdict.losers and not untold:
            raise RefusedError(
                "the volume lives on that host already",
                where=_place(target),
                remedy=f"voltool where {wish.name}",
            )
    elif not wish.force:
        raise RefusedError(
            "the volume lives on several hosts",
            where=wish.host,
            why=", ".join(_place(claim) for claim in survey.claims if claim.standing.standing == replicas.HOME),
            remedy="--force makes this one the volume; the others retire, and what was written there is kept aside",
        )
    else:
        promoted = _choose(world, volume, wish, survey)
    return _remembered(world, volume, wish, survey, promoted)


def _finish(world: World, volume: KnownVolume, wish: PromoteWish, target: Claim) -> replicas.Promoted:
    """What a promotion that was cut off after its commit has left to do; nothing, where none was."""
    epoch = target.standing.epoch
    assert epoch is not None
    with world.hosts.connect(wish.host) as agent:
        status = _replica_on(agent, volume)
        if status is None or status.replica.phase != PROMOTING:
            agent.send(messages.ShowVolume(volume.uuid, target.standing.path))
            return replicas.Promoted(expect(agent, messages.VolumeReply).record)
        return _become(agent, status.replica, replicas.PromoteReplica(epoch, 0, (), wish.hooks))


def _choose(world: World, volume: KnownVolume, wish: PromoteWish, survey: _Survey) -> replicas.Promoted:
    with world.hosts.connect(wish.host) as agent:
        epoch = _next_epoch(world, volume, survey, agent.agent.hostname)
        agent.send(replicas.ChooseHome(volume.uuid, epoch, _next_sequence(world, volume, survey)))
        return expect(agent, replicas.Promoted)


def _check_old_homes(volume: KnownVolume, wish: PromoteWish, survey: _Survey) -> None:
    """RefusedError while anybody takes, or may take, himself for the home; unless forced."""
    if wish.force:
        return
    for claim in survey.claims:
        standing = claim.standing
        if standing.standing == replicas.HOME:
            raise RefusedError(
                "the volume's home answers: it is alive",
                where=_place(claim),
                remedy=f"voltool move {volume.name} HOST gives it another home and loses nothing; --force, if you mean it",
            )
        if standing.standing == replicas.BETWEEN:
            raise RefusedError(
                "the volume is on its way to another host",
                where=claim.host,
                why="a move was interrupted after its commit",
                remedy=f"voltool move --resume {volume.name}",
            )
        if standing.standing == replicas.ABSENT:
            raise RefusedError(
                "the volume's home cannot say whether it is alive",
                where=_place(claim),
                why="its file system is not mounted, or its records are not there",
                remedy="mount it; --force, if you mean it",
            )
    for old in survey.unheard(volume):
        raise RefusedError(
            "the volume's home cannot be asked: it may be alive",
            where=f"{old.host}:{shown(old.path)}",
            why=survey.silent[old.host],
            remedy="wait until it answers; --force, if it is lost: it accepts writes until it is contacted",
        )


def _place(claim: Claim) -> str:
    epoch = claim.standing.epoch
    return f"{claim.host}:{shown(claim.standing.path)}" + (f" (epoch {epoch.number})" if epoch is not None else "")


def _promote_replica(world: World, volume: KnownVolume, wish: PromoteWish, survey: _Survey) -> PromoteOutcome:
    with world.hosts.connect(wish.host) as agent:
        status = _replica_on(agent, volume)
        if status is None:
            raise NotFoundError(
                f"there is no replica of {volume.name} on that host",
                where=wish.host,
                remedy=f"voltool replica list {volume.name}",
            )
        _refuse_what_lacks(agent, wish, status)
        replica = status.replica
        epoch = _next_epoch(world, volume, survey, agent.agent.hostname, replica.epoch)
        request = replicas.PromoteReplica(
            epoch,
            _next_sequence(world, volume, survey, replica.sequence),
            volume.excludes,
            wish.hooks,
            changed_too=wish.force,
        )
        # Before it can happen: whatever comes now, they will be told.
        rows = [former_row(volume, old.host, old.path, epoch.number) for old in _old_homes(volume, survey)]
        known = {row.replica_id for row in world.catalog.replicas(volume.uuid)}
        for row in rows:
            world.catalog.put_replica(row)
        try:
            promoted = _become(agent, replica, request)
        except RefusedError:  # it has not happened
            for row in rows:
                if row.replica_id not in known:
                    world.catalog.remove_replica(row.replica_id)
            raise
    return _remembered(world, volume, wish, survey, promoted)


def _refuse_what_lacks(agent: Conversation, wish: PromoteWish, status: replicas.ReplicaStatus) -> None:
    """RefusedError where something of the volume is not there: it would be lost, so ``force`` is no way. The host looks
    once more."""
    replica = status.replica
    if replica.phase in (SERVING, PROMOTING):
        return
    what = "the replica does not have everything of the volume: what is missing would be lost"
    where = f"{wish.host}:{shown(replica.path)}"
    if replica.phase != LAZY:
        remedy = "wait until it is full (voltool replica list), promote another one, or restore the latest dump"
        raise RefusedError(what, where=where, why=f"it is {replica.phase}", remedy=remedy)
    missing = tuple(missing_names(agent, replica.uuid, -1 if wish.name_all else _NAMED))
    why = f"{status.missing_files} files with {status.missing_bytes} bytes are missing"
    if missing:
        why += f": {', '.join(shown(path) for path in missing[:_NAMED])}"
        why += " and others" if status.missing_files > _NAMED else ""
    remedy = f"wait until it is full (voltool replica list {wish.name}), or promote another one; where nobody has them any more:"
    remedy += (
        f" restore the latest dump to a directory there, then voltool replica sync {wish.name} {wish.host} --fill-from"
    )
    error = LacksFilesError(what, where=where, why=why, remedy=f"{remedy} /the/directory; what is in no dump is lost")
    error.missing = missing
    raise error


def _replica_on(agent: Conversation, volume: KnownVolume) -> replicas.ReplicaStatus | None:
    agent.send(replicas.ListReplicas())
    found = expect(agent, replicas.ReplicasReply).replicas
    return next((each for each in found if each.replica.uuid == volume.uuid), None)


def _become(agent: Conversation, replica: ReplicaRecord, request: replicas.PromoteReplica) -> replicas.Promoted:
    agent.send(replicas.ReplicaIn(replica, begin=False))
    expect(agent, replicas.ReplicaStatus)
    agent.send(request)
    promoted = expect(agent, replicas.Promoted)
    agent.send(replicas.EndReplica())
    expect(agent, messages.Done)
    return promoted


def _old_homes(volume: KnownVolume, survey: _Survey) -> list[Peer]:
    """Who takes, or may take, himself for the home."""
    may_be = (replicas.HOME, replicas.ABSENT, replicas.BETWEEN)
    answered = [claim for claim in survey.claims if claim.standing.standing in may_be]
    found = [Peer(claim.host, claim.machine_id, claim.hostname, claim.standing.path) for claim in answered]
    return [*found, *survey.unheard(volume)]


def _next_epoch(world: World, volume: KnownVolume, survey: _Survey, hostname: str, seen: Epoch | None = None) -> Epoch:
    """Higher than any that anybody knows of."""
    known = [highest_epoch(survey.claims), seen.number if seen is not None else 0]
    known += [row.epoch for row in world.catalog.replicas(volume.uuid)]
    known += [dump.header.epoch.number for dump in world.catalog.dumps(volume.uuid)]
    return Epoch(max(known) + 1, secrets.token_hex(16), hostname)


def _next_sequence(world: World, volume: KnownVolume, survey: _Survey, seen: int = 0) -> int:
    """Higher than that of any dump, so that later ones go on from there; also than those which an old home that does not
    know of this may still make for somebody else."""
    known = [seen, *(claim.standing.sequence for claim in survey.claims)]
    known += [max(row.sequence, row.home_sequence) for row in world.catalog.replicas(volume.uuid)]
    known += [dump.header.sequence for dump in world.catalog.dumps(volume.uuid)]
    return max(known) + 1 + (_ROOM if _old_homes(volume, survey) else 0)


def _remembered(
    world: World, volume: KnownVolume, wish: PromoteWish, survey: _Survey, promoted: replicas.Promoted
) -> PromoteOutcome:
    """The catalog has the new home; whoever can be reached is told."""
    record = promoted.record
    for row in world.catalog.replicas(volume.uuid):
        if row.host == wish.host:
            world.catalog.remove_replica(row.replica_id)
    target = survey.of(wish.host)
    assert target is not None
    local = wish.host == "local"
    now = dataclasses.replace(
        volume,
        host=wish.host,
        path=record.path,
        driver=record.driver,
        hostname=target.hostname if local else "",
        machine_id=target.machine_id if local else "",
    )
    for old in _old_homes(volume, survey):
        if old.host != wish.host:
            world.catalog.put_replica(former_row(volume, old.host, old.path, record.epoch.number))
    world.catalog.put_volume(now)
    told: list[Told] = []
    try:
        told = settle_homes(world, now, settings=TellSettings(wish.hooks, wish.lock_timeout))
    except VoltoolError as error:
        world.reporter.report(Notice("warning", f"{volume.name}: not all hosts were told: {error}"))
    untold = tuple(row.host for row in world.catalog.replicas(volume.uuid) if row.role == FORMER)
    return PromoteOutcome(record, wish.host, volume.host, volume.path, tuple(told), untold, promoted.hook_failed)
