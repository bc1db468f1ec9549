"""`voltool replica add` and `sync`: which replicas are meant, and many of them side by side, none in another's way."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from voltool.errors import (
    EXIT_DONE,
    EXIT_PARTIAL,
    AgentError,
    Interruption,
    NotFoundError,
    RefusedError,
    VoltoolError,
)
from voltool.model import FILLING, LAZY, KnownReplica, KnownVolume
from voltool.policy.replicas import FORMER, REPLICA, standing_of
from voltool.remote.ahead import Ahead
from voltool.replica.pair import How, Pair, Round, bring
from voltool.replica.ports import World
from voltool.replica.retrying import when_free
from voltool.replica.sessions import ReplicaSettings
from voltool.replica.target import SettingsOf, Target
from voltool.replica.ways import About, Surroundings, Ways
from voltool.showing import shown
from voltool.wire.conversation import expect
from voltool.wire.replicas import ListReplicas, ReplicasReply

#: How long jobs that are ended from outside may take to clean up, seconds.
GRACE = 40.0


@dataclass(frozen=True)
class Synced:
    """What became of a replica: it was brought up to date (``round``), or not (``error``). ``target`` as it is known now."""

    target: Target
    round: Round | None = None
    error: VoltoolError | None = None

    def exit_code(self, max_lag: int | None, now_ns: int) -> int:
        """That of the error; 3 where files could not be read, or what it serves is older than its limit all the same."""
        if self.error is not None:
            return self.error.exit_code
        standing = standing_of(self.target.volume.name, self.target.replica, now_ns, max_lag)
        partial = standing.is_stale or (self.round is not None and bool(self.round.brought.problems))
        return EXIT_PARTIAL if partial else EXIT_DONE


# ------------------------------------------------------------------------------------------------------- which ones


def targets_of(world: World, name: str = "", host: str = "") -> list[Target]:
    """The replicas of the volume ``name`` (of all volumes), on ``host`` (everywhere). NotFoundError where one that is named is
    not there."""
    volumes = [world.catalog.volume(name)] if name else world.catalog.volumes()
    by_uuid = {volume.uuid: volume for volume in volumes}
    replicas = world.catalog.replicas(volumes[0].uuid if name else None)
    mine = [each for each in replicas if each.volume_uuid in by_uuid and each.role == REPLICA]
    found = [Target(by_uuid[each.volume_uuid], each) for each in mine if host in ("", each.host)]
    if name and not found:
        places = ", ".join(f"{each.host}:{shown(each.path)}" for each in mine)
        what = f"{name} has no replica on {host}" if host else f"{name} has no replicas"
        raise NotFoundError(
            what, why=f"it has: {places}" if places else "", remedy=f"voltool replica add {name} HOST[:/path]"
        )
    return found


# -------------------------------------------------------------------------------------------------------------- add


@dataclass(frozen=True)
class AddWish:
    """A replica of the volume ``name`` on ``host``, served at ``path`` (None: the volume's own). ``forbidden``: paths of stores
    and of voltool's state on that host."""

    name: str
    host: str
    path: bytes | None
    forbidden: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Place:
    """A path on a host."""

    host: str
    path: bytes


def add(world: World, wish: AddWish, settings: ReplicaSettings) -> Synced:
    """Make a replica and fill it. The same again goes on where that was interrupted, or brings it up to date.

    RefusedError where it cannot be there. What fails later leaves a replica that `sync` goes on with.
    """
    volume = world.catalog.volume(wish.name)
    path = wish.path or volume.path
    if wish.host == volume.host:
        where = f"{volume.host}:{shown(volume.path)}"
        raise RefusedError("the volume itself lives on that host", where=where, remedy="another host; voltool copy")
    with Ahead(world.hosts) as hosts:
        known, is_new = _known_or_new(world, hosts, volume, Place(wish.host, path))
        around = Surroundings(hosts, world.catalog, world.reporter, world.caller)
        return _fill(around, Target(volume, known), wish, settings, is_new=is_new)


def _fill(world: World, target: Target, wish: AddWish, settings: ReplicaSettings, *, is_new: bool) -> Synced:
    volume, known = target.volume, target.replica
    world.catalog.put_replica(known)
    pair = Pair()
    try:
        with pair:
            done = when_free(lambda: bring(world, target, How(settings, forbidden=wish.forbidden), pair))
    except Interruption as interruption:
        interruption.error.remedy = (
            f"voltool replica sync {volume.name} {wish.host} goes on, voltool replica remove undoes it"
        )
        raise
    except VoltoolError as error:
        if is_new and not pair.begun:
            world.catalog.remove_replica(known.replica_id)
            raise
        note(world, target, error)
        error.remedy += f"{'; then ' if error.remedy else ''}voltool replica sync {volume.name} {wish.host} goes on"
        raise
    return remember(world, target, done)


def _known_or_new(world: World, hosts: Ahead, volume: KnownVolume, place: Place) -> tuple[KnownReplica, bool]:
    """The replica as it is known here or to its host already; else a new one, and True. Both hosts are connected to meanwhile."""
    host, path = place.host, place.path
    for known in world.catalog.replicas(volume.uuid):
        if known.host == host and known.role == FORMER:
            raise RefusedError(
                "that host was the volume's home before a promotion, and has not been told yet",
                where=f"{host}:{shown(known.path)}",
                remedy=f"voltool replica sync {volume.name}, which tells it",
            )
        if known.host == host:
            if known.path == path:
                return known, False
            raise _second(volume, host, known.path)
    hosts.begin(host)
    hosts.begin(volume.host)
    with hosts.borrow(host) as agent:
        agent.send(ListReplicas())
        there = expect(agent, ReplicasReply).replicas
    record = next((each.replica for each in there if each.replica.uuid == volume.uuid), None)
    if record is None:
        return KnownReplica(uuid.uuid4().hex, volume.uuid, host, path), True
    if record.path != path:
        raise _second(volume, host, record.path)
    return KnownReplica(record.replica_id, volume.uuid, host, path, phase=record.phase or FILLING), False


def _second(volume: KnownVolume, host: str, path: bytes) -> RefusedError:
    return RefusedError(
        f"{host} has a replica of {volume.name} already",
        where=f"{host}:{shown(path)}",
        why="a host has one replica of a volume",
        remedy=f"voltool replica remove {volume.name} {host}, then add it anew",
    )


# ------------------------------------------------------------------------------------------------------------- sync


def sync(world: World, targets: Sequence[Target], settings: SettingsOf, told: Callable[[Synced], None]) -> list[Synced]:
    """Bring all up to date, those on different hosts side by side; ``told`` of each as it ends. Raises only Interruption."""
    by_host: dict[str, list[Target]] = {}
    for target in targets:
        by_host.setdefault(target.replica.host, []).append(target)
    jobs = [_HostJobs(world, queued, settings) for queued in by_host.values()]
    ended: queue.SimpleQueue[Synced | None] = queue.SimpleQueue()
    for job in jobs:
        job.start(ended)
    done: list[Synced] = []

    def take(synced: Synced) -> None:
        done.append(_remembered(world, synced))
        told(done[-1])

    try:
        while len(done) < len(targets):
            if (synced := ended.get()) is not None:
                take(synced)
    except Interruption as interruption:
        for job in jobs:
            job.end(interruption.error)
        for synced in _drained(ended, jobs):
            take(synced)
        raise
    return done


def _drained(ended: queue.SimpleQueue[Synced | None], jobs: Sequence[_HostJobs]) -> Iterator[Synced]:
    """What ends within the time for cleaning up."""
    deadline = time.monotonic() + GRACE
    for job in jobs:
        job.thread.join(max(0.0, deadline - time.monotonic()))
    with contextlib.suppress(queue.Empty):
        while True:
            if (synced := ended.get_nowait()) is not None:
                yield synced


class _HostJobs:
    """The replicas on one host, one after the other, in a thread of its own: a host that is slow or dead holds up its own
    only."""

    def __init__(self, world: World, targets: Iterable[Target], settings: SettingsOf) -> None:
        self._world = world
        # A lazy one may take until it is full (`replica.relay`).
        self._targets = tuple(sorted(targets, key=lambda target: target.replica.phase == LAZY))
        self._settings = settings
        self._ways: list[Ways] = []
        self._ended_by: VoltoolError | None = None
        self.thread = threading.Thread(name=f"voltool-replica-{self._targets[0].replica.host}", daemon=True)

    def start(self, ended: queue.SimpleQueue[Synced | None]) -> None:
        """Begin; each result goes into ``ended``."""
        self.thread.run = lambda: self._run(ended)  # type: ignore[method-assign]
        self.thread.start()

    def end(self, error: VoltoolError) -> None:
        """Whatever is not done yet ends with ``error``."""
        self._ended_by = error
        for ways in tuple(self._ways):
            ways.end(error)

    def _run(self, ended: queue.SimpleQueue[Synced | None]) -> None:
        for target in self._targets:
            try:
                ended.put(self._one(target))
            except VoltoolError as error:
                ended.put(Synced(target, error=error))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not look as if the others had failed
                ended.put(Synced(target, error=unforeseen(error)))

    def _one(self, target: Target) -> Synced:
        if self._ended_by is not None:
            raise self._ended_by
        world = surroundings(self._world, target)
        assert isinstance(world.hosts, Ways)
        self._ways.append(world.hosts)
        if self._ended_by is not None:
            raise self._ended_by
        settings = self._settings(target.volume.name)
        with Pair() as pair:
            done = when_free(lambda: bring(world, target, How(settings), pair))
        return Synced(target, done)


def surroundings(world: World, target: Target, *, quietly: bool = False) -> Surroundings:
    """A world of its own for the job about ``target``; its hosts are `Ways`."""
    about = About(world.reporter, target, quietly=quietly)
    return Surroundings(Ways(world.hosts, about), world.catalog, about, world.caller)


def unforeseen(error: Exception) -> VoltoolError:
    """An error of ours for one that nobody foresaw."""
    return AgentError("something unforeseen happened", why=f"{type(error).__name__}: {error}")


# -------------------------------------------------------------------------------------------------- what is remembered


def _remembered(world: World, synced: Synced) -> Synced:
    try:
        if synced.round is not None:
            return remember(world, synced.target, synced.round)
        assert synced.error is not None
        return Synced(note(world, synced.target, synced.error), error=synced.error)
    except VoltoolError as error:
        return Synced(synced.target, synced.round, synced.error or error)


def remember(world: World, target: Target, done: Round, now_ns: int | None = None) -> Synced:
    """The catalog learns what the replica serves now."""
    brought = done.brought
    known = dataclasses.replace(
        target.replica,
        path=done.status.replica.path,
        phase=done.status.replica.phase,
        sequence=brought.sequence,
        clone_time_ns=brought.clone_time_ns,
        home_sequence=max(target.replica.home_sequence, brought.sequence),
        checked_ns=time.time_ns() if now_ns is None else now_ns,
        missing_bytes=done.status.missing_bytes,
        fault="",
    )
    return Synced(Target(done.volume, _put(world, known)), done)


def note(world: World, target: Target, error: VoltoolError) -> Target:
    """The catalog learns why it could not be brought up to date."""
    mine = target.replica
    known = (each for each in world.catalog.replicas(mine.volume_uuid) if each.replica_id == mine.replica_id)
    return Target(target.volume, _put(world, dataclasses.replace(next(known, mine), fault=str(error))))


def _put(world: World, known: KnownReplica) -> KnownReplica:
    """Not where it has been removed meanwhile."""
    if any(each.replica_id == known.replica_id for each in world.catalog.replicas(known.volume_uuid)):
        world.catalog.put_replica(known)
    return known
