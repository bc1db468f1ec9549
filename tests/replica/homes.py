"""Three hosts and two administrators in one process, for promotions that crash everywhere.

The jobs (`voltool.replica.promote`, `contact`) and the steps on hosts (`promoting`, `stepping_down`, the decision of `hearing`)
are the real ones; what they stand on is simulated. Every operation on a host and every message is a *point*, at which the
command line or a host can be killed. A tree is the set of its writes; whoever can write to a tree does, at every point,
and is promised that it lasts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from voltool.agent.replica.judging import judge_epoch
from voltool.agent.replica.promoting import Becoming, Promoting, finish
from voltool.errors import AgentError, MovedError, NotFoundError, UnreachableError, VoltoolError
from voltool.events import Silent
from voltool.model import (
    MOVED,
    RETIRED,
    RETIRING,
    SERVING,
    Epoch,
    KnownReplica,
    KnownVolume,
    Peer,
    ReplicaRecord,
    SourceMove,
    Split,
    VolumeRecord,
)
from voltool.replica.contact import settle_homes
from voltool.replica.promote import PromoteWish, promote
from voltool.volumes.moving.source import MovingSource
from voltool.volumes.moving.stepping_down import SteppingDown
from voltool.wire import messages, replicas

UUID = "u" * 32
PATH = b"/srv/vol"


class CliKilled(BaseException):
    """kill -9 of the command line."""


class HostKilled(BaseException):
    """kill -9 of an agent, or of its host."""


class InvariantError(AssertionError):
    """A promise is broken."""


@dataclass
class Disk:
    """A host. ``tree``: what stands at the path, None where nothing does; ``copy``: the retired one; ``lock`` and ``closed`` do
    not survive a kill of the host."""

    tree: frozenset[int] | None = None
    home: VolumeRecord | None = None
    split: Split | None = None
    replica: ReplicaRecord | None = None
    began_with: frozenset[int] | None = None
    move: SourceMove | None = None
    copy: frozenset[int] | None = None
    aside: frozenset[int] = frozenset()
    opened: bool = False
    lock: bool = False
    closed: bool = False

    @property
    def writable(self) -> bool:
        """Whether a writer gets through."""
        return self.tree is not None and self.opened and not self.lock and not self.closed


@dataclass
class Hosts:
    """All hosts, and who is killed at which point. ``written`` is what was acknowledged, and not lost by force itself."""

    disks: dict[str, Disk]
    down: set[str] = field(default_factory=set)
    written: set[int] = field(default_factory=set)
    kill_at: int = -1
    kill: str = ""
    points: int = 0
    dead: set[str] = field(default_factory=set)
    cli_dead: bool = False
    next_write: int = 100

    def begin(self, kill_at: int = -1, kill: str = "") -> None:
        """A new command."""
        self.kill_at, self.kill, self.points = kill_at, kill, 0
        self.dead, self.cli_dead = set(), False

    def point(self, host: str = "") -> None:
        """Somebody may die here; writers write; the promise that holds at any time is looked at."""
        if self.points == self.kill_at:
            self._kill()
        self.points += 1
        for disk in self.disks.values():
            if disk.writable:
                assert disk.tree is not None
                disk.tree |= {self.next_write}
                self.written.add(self.next_write)
                self.next_write += 1
        self._look()
        if self.cli_dead and not host:
            raise CliKilled
        if host in self.dead:
            raise HostKilled

    def _kill(self) -> None:
        if self.kill == "cli":
            self.cli_dead = True
        else:
            self.dead.add(self.kill)
            self.disks[self.kill].lock = self.disks[self.kill].closed = False

    def _look(self) -> None:
        homes = [disk.home.epoch for disk in self.disks.values() if disk.home is not None]
        if len({(epoch.number, epoch.token) for epoch in homes}) < len(homes):
            raise InvariantError("two homes with the same epoch and token")

    def connect(self, host: str) -> Any:
        """As of `replica.ports.Hosts`."""
        return contextlib.nullcontext(self._conversation(host))

    def _conversation(self, host: str) -> Agent:
        self.point()
        if host in self.down or host in self.dead:
            raise UnreachableError("the host cannot be reached", where=host)
        return Agent(self, host)


class Agent:
    """A conversation, with the agent behind it."""

    def __init__(self, hosts: Hosts, host: str) -> None:
        self._hosts, self._host = hosts, host
        self._disk = hosts.disks[host]
        self._answers: list[Any] = []
        self.agent = messages.HelloReply("", "", host, f"machine {host}", "", 0, "")

    def send(self, message: Any) -> None:
        self._hosts.point()
        if self._host in self._hosts.dead:
            raise AgentError("the connection broke")
        try:
            answer = getattr(self, f"_{type(message).__name__}")(message)
        except HostKilled:
            raise AgentError("the connection broke") from None
        except VoltoolError as error:
            answer = error
        finally:
            self._disk.lock = False  # by its guardian
            if self._disk.move is not None and self._disk.move.phase == RETIRING and self._host not in self._hosts.dead:
                MovingSource(LeavingGround(self._hosts, self._host, alive=True)).recover()
        self._answers.append(answer)

    def receive(self) -> Any:
        self._hosts.point()
        answer = self._answers.pop(0)
        if isinstance(answer, VoltoolError):
            raise answer
        return answer

    def _ShowStanding(self, _message: object) -> Any:  # noqa: N802 - a message's name
        disk = self._disk
        if disk.move is not None:
            done = disk.move.phase == RETIRED and disk.home is None
            return replicas.Standing(
                replicas.AWAY if done else replicas.LEAVING,
                disk.move.epoch,
                path=PATH,
                home=disk.move.target,
                aside_count=len(disk.aside),
            )
        if disk.home is None:
            return replicas.Standing(replicas.NOTHING)
        home = disk.home
        split = disk.split if disk.split is not None and disk.split.mine == home.epoch else None
        return replicas.Standing(replicas.HOME, home.epoch, home.sequence, PATH, None, "state", split)

    def _ShowVolume(self, _message: object) -> Any:  # noqa: N802
        if self._disk.home is None:
            raise NotFoundError("no such volume")
        return messages.VolumeReply(self._disk.home, ())

    def _ListReplicas(self, _message: object) -> Any:  # noqa: N802
        found = () if self._disk.replica is None else (replicas.ReplicaStatus(self._disk.replica),)
        return replicas.ReplicasReply(found, ())

    def _ReplicaIn(self, message: replicas.ReplicaIn) -> Any:  # noqa: N802
        return replicas.ReplicaStatus(self._disk.replica or message.replica)

    def _EndReplica(self, _message: object) -> Any:  # noqa: N802
        return messages.Done()

    def _PromoteReplica(self, message: replicas.PromoteReplica) -> Any:  # noqa: N802
        ground = PromotingGround(self._hosts, self._host)
        record = Promoting(ground).promote(Becoming(message.epoch, message.sequence), lambda _record: None)
        return replicas.Promoted(record)

    def _ChooseHome(self, message: replicas.ChooseHome) -> Any:  # noqa: N802
        disk, point = self._disk, self._hosts.point
        if disk.home is None:
            raise MovedError("it is not here")
        point(self._host)
        disk.home = dataclasses.replace(disk.home, epoch=message.epoch)
        point(self._host)
        disk.closed = False
        finish(PromotingGround(self._hosts, self._host))
        return replicas.Promoted(disk.home)

    def _HearEpoch(self, message: replicas.HearEpoch) -> Any:  # noqa: N802
        disk, steps = self._disk, SteppingDown(LeavingGround(self._hosts, self._host))
        if disk.move is not None and disk.move.phase == RETIRED:
            steps.leave_retired()
            assert disk.move.epoch is not None
            if message.epoch.number > disk.move.epoch.number:
                disk.move = dataclasses.replace(disk.move, target=message.home, epoch=message.epoch)
            known = disk.move.epoch
            assert known is not None
            return replicas.EpochHeard(replicas.KNOWN, known, home=disk.move.target)
        if disk.home is None:
            return replicas.EpochHeard(replicas.NOTHING, message.epoch)
        outcome = judge_epoch(disk.home.epoch, message.epoch)
        if outcome == replicas.SPLIT:
            self._hosts.point(self._host)
            disk.split = Split(disk.home.epoch, message.epoch, message.home, 0)
            self._hosts.point(self._host)
            disk.closed = True
        if outcome != replicas.RETIRED_NOW:
            return replicas.EpochHeard(outcome, disk.home.epoch)
        return self._retire(message, steps)

    def _retire(self, message: replicas.HearEpoch, steps: SteppingDown) -> Any:
        disk = self._disk
        known = MovingSource(LeavingGround(self._hosts, self._host)).recover()
        if known is None or known.phase != MOVED:
            disk.closed, disk.lock = False, True
            move = SourceMove(
                message.epoch.token, UUID, "vol", PATH, message.home, MOVED, 0, epoch=message.epoch, promoted=True
            )
            known = steps.leave(move)
        assert disk.copy is not None
        began = next(each.began_with for each in self._hosts.disks.values() if each.began_with is not None)
        disk.aside = disk.copy - began
        retired = steps.settle(known, "", (), len(disk.aside))
        assert retired.epoch is not None
        return replicas.EpochHeard(replicas.RETIRED_NOW, retired.epoch, (), len(disk.aside))


class LeavingGround:
    """A simulated `volumes.moving.ground.SourceGround`."""

    def __init__(self, hosts: Hosts, host: str, *, alive: bool = False) -> None:
        self._hosts, self._host, self._alive = hosts, host, alive
        self._disk = hosts.disks[host]

    @contextlib.contextmanager
    def _operation(self) -> Iterator[Disk]:
        if not self._alive:
            self._hosts.point(self._host)
        yield self._disk
        if not self._alive:
            self._hosts.point(self._host)

    def load(self) -> SourceMove | None:
        return self._disk.move

    def save(self, move: SourceMove) -> None:
        with self._operation() as disk:
            disk.move = move

    def remove(self) -> None:
        with self._operation() as disk:
            disk.move = None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        yield

    def assert_locked(self) -> None:
        if not self._disk.lock:
            raise AgentError("not locked")

    def assert_unchanged(self, state_id: str) -> None:
        raise NotImplementedError

    def is_away(self, move: SourceMove) -> bool:
        del move
        return self._disk.copy is not None

    def take_away(self, move: SourceMove) -> None:
        del move
        with self._operation() as disk:
            disk.copy, disk.tree = disk.tree, None

    def bring_back(self, move: SourceMove) -> None:
        del move
        with self._operation() as disk:
            if disk.copy is not None:
                disk.tree, disk.copy = disk.copy, None

    def unlock(self) -> None:
        self._disk.lock = False

    def leave(self, move: SourceMove) -> None:
        del move
        with self._operation() as disk:
            disk.lock, disk.home = False, None


class PromotingGround:
    """A simulated `agent.replica.promoting.PromotionGround`."""

    def __init__(self, hosts: Hosts, host: str) -> None:
        self._hosts, self._host = hosts, host
        self._disk = hosts.disks[host]

    @contextlib.contextmanager
    def _operation(self) -> Iterator[Disk]:
        self._hosts.point(self._host)
        yield self._disk
        self._hosts.point(self._host)

    def load(self) -> ReplicaRecord | None:
        return self._disk.replica

    def save(self, record: ReplicaRecord) -> None:
        with self._operation() as disk:
            disk.replica = record

    def home(self) -> VolumeRecord | None:
        return self._disk.home

    def check(self, record: ReplicaRecord, *, changed_too: bool) -> ReplicaRecord:
        del changed_too
        return record

    def settle(self, record: ReplicaRecord) -> None:
        del record
        with self._operation():
            pass

    def become_home(self, record: ReplicaRecord) -> None:
        assert record.next_epoch is not None
        with self._operation() as disk:
            disk.began_with = disk.tree
            disk.home = VolumeRecord(UUID, "vol", PATH, "directory", record.next_epoch, record.next_sequence)

    def open(self, record: ReplicaRecord) -> None:
        del record
        with self._operation() as disk:
            if disk.home is None:
                raise InvariantError("a replica can be written to that is no home")
            disk.opened = True

    def forget(self, record: ReplicaRecord) -> None:
        del record
        with self._operation() as disk:
            disk.replica = None


class Catalog:
    """One administrator's memory; every write is a point."""

    def __init__(self, hosts: Hosts, host: str, replicas_on: tuple[str, ...]) -> None:
        self._hosts = hosts
        self.known = KnownVolume(UUID, "vol", host, PATH, "directory")
        self.rows = {each: KnownReplica(each, UUID, each, PATH, phase=SERVING) for each in replicas_on}

    def volume(self, name: str) -> KnownVolume:
        del name
        return self.known

    def volumes(self) -> list[KnownVolume]:
        return [self.known]

    def put_volume(self, volume: KnownVolume) -> None:
        self._hosts.point()
        self.known = volume

    def replicas(self, volume_uuid: str | None = None) -> list[KnownReplica]:
        del volume_uuid
        return list(self.rows.values())

    def put_replica(self, replica: KnownReplica) -> None:
        self._hosts.point()
        self.rows[replica.replica_id] = replica

    def remove_replica(self, replica_id: str) -> None:
        self._hosts.point()
        self.rows.pop(replica_id, None)

    def dumps(self, volume_uuid: str | None = None) -> list[Any]:
        del volume_uuid
        return []

    def put_move(self, move: object) -> None:
        del move


@dataclass
class Site:
    """The hosts, and what each administrator knows. ``a`` is the home, ``b`` and ``c`` replicas; the second administrator knows
    nothing of ``b``."""

    hosts: Hosts
    catalogs: tuple[Catalog, Catalog]

    def world(self, administrator: int) -> Any:
        """What his commands work with."""
        return World(self.hosts, self.catalogs[administrator])

    def promote(
        self, host: str, administrator: int = 0, *, force: bool = True, kill_at: int = -1, kill: str = ""
    ) -> str:
        """`voltool replica promote vol HOST`; how it ended."""
        return self._run(kill_at, kill, lambda: promote(self.world(administrator), PromoteWish("vol", host, force)))

    def settle(self, administrator: int = 0, *, also: tuple[str, ...] = (), kill_at: int = -1, kill: str = "") -> str:
        """Any command that makes contact."""
        catalog = self.catalogs[administrator]
        return self._run(kill_at, kill, lambda: settle_homes(self.world(administrator), catalog.known, also))

    def _run(self, kill_at: int, kill: str, act: Any) -> str:
        self.hosts.begin(kill_at, kill)
        try:
            act()
        except CliKilled:
            return "killed"
        except VoltoolError as error:
            return error.kind
        finally:
            self._quiet()
        return "done"

    def _quiet(self) -> None:
        """Everything that was killed is up again; guardians have done what they do."""
        points, self.hosts.kill_at = self.hosts.points, -1
        self.hosts.dead, self.hosts.cli_dead = set(), False
        for host, disk in self.hosts.disks.items():
            disk.lock = False
            if disk.move is not None and disk.move.phase == RETIRING:
                MovingSource(LeavingGround(self.hosts, host, alive=True)).recover()
        self.hosts.points = points


@dataclass(frozen=True)
class World:
    """As of `replica.ports.World`."""

    hosts: Hosts
    catalog: Catalog
    reporter: Silent = field(default_factory=Silent)
    caller: str = "somebody"


def make_site(*, down: str = "") -> Site:
    """``a`` has written on since both replicas were synced; ``down``: who cannot be reached."""
    epoch = Epoch(1, "first", "a")
    synced = frozenset(range(3))
    replica = ReplicaRecord(
        "r", UUID, "vol", PATH, Peer("a", "machine a", "a", PATH), SERVING, 0, epoch, "state", sequence=7
    )
    disks = {
        "a": Disk(synced | {10}, VolumeRecord(UUID, "vol", PATH, "directory", epoch, 9), opened=True),
        "b": Disk(synced, replica=replica),
        "c": Disk(synced, replica=replica),
    }
    hosts = Hosts(disks, written=set(synced | {10}), down=set(down))
    return Site(hosts, (Catalog(hosts, "a", ("b", "c")), Catalog(hosts, "a", ("c",))))


def state(site: Site) -> tuple[object, ...]:
    """What decides how it goes on, tokens aside: equal states need to be gone on from once."""
    disks = [
        (
            disk.tree is not None, disk.home and disk.home.epoch.number, disk.split is not None, disk.opened,
            disk.replica and disk.replica.phase, disk.move and (disk.move.phase, disk.move.epoch and disk.move.epoch.number,
            disk.move.target.host), disk.copy is not None, disk.closed,
        )
        for disk in site.hosts.disks.values()
    ]  # fmt: skip
    rows = [
        (catalog.known.host, *sorted((row.role, row.host, row.epoch) for row in catalog.rows.values()))
        for catalog in site.catalogs
    ]
    return (*itertools.chain(disks, rows), frozenset(site.hosts.down))
