"""Two hosts and a command line in one process, for a move that crashes everywhere.

The driver and the steps (`voltool.move.driver`, `voltool.volumes.moving`) are the real ones; what they stand on is simulated:
a durable part that survives everything, a volatile part (mounts of a lock, its guardian, open sessions) that does not. Every
operation of a ground and every message is a *point*, before and after which each party can be killed. A tree is the number
of writes in it: a writer appends whenever the tree can be written, and what it has appended is acknowledged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from voltool.errors import AgentError, BusyError, RefusedError, VoltoolError
from voltool.events import Silent
from voltool.model import (
    COPYING,
    MOVED,
    PREPARED,
    RECEIVING,
    RETIRED,
    Epoch,
    Peer,
    SourceMove,
    TargetMove,
    VolumeRecord,
)
from voltool.move import driver
from voltool.move.driver import MoveOptions
from voltool.move.ports import Sent, Sink
from voltool.volumes.moving.source import MovingSource
from voltool.volumes.moving.target import MovingTarget

OPTIONS = MoveOptions(downtime=1000.0, max_rounds=2)


class Party(enum.Enum):
    """Who is killed."""

    CLI = "command line"
    SOURCE = "source agent"
    SOURCE_HOST = "source host"
    TARGET = "target agent"
    TARGET_HOST = "target host"
    HANG_UP = "the agents see the command line's connection end in the midst of a step"


class CliKilled(BaseException):
    """kill -9 of the command line."""


class AgentKilled(BaseException):
    """kill -9 of an agent, or of its host: none of its code runs any more."""


class HungUp(BaseException):
    """What the agent's own code sees when its connection ends (`agent.channel.HungUp`)."""


class InvariantError(AssertionError):
    """A promise is broken."""


@dataclass
class SourceDisk:
    """The old home: record, tree, lock. ``lock`` is volatile: a reboot takes it. The tree leaves in ``parts`` steps: one for a
    directory, several for a mount point; ``gone`` of them have left."""

    record: SourceMove | None = None
    writes: int = 3
    parts: int = 1
    gone: int = 0
    registered: bool = True
    lock: bool = False
    lease: bool = False
    scans: dict[str, int] = field(default_factory=dict)
    hooks: list[str] = field(default_factory=list)

    @property
    def away(self) -> bool:
        """Whether the whole tree has left."""
        return self.gone == self.parts

    @property
    def writable(self) -> bool:
        """Whether a writer gets through; also to a tree of which a reboot has left a part away."""
        return not self.away and not self.lock


@dataclass
class TargetDisk:
    """The new home: record, staging, and the published tree (-1: none)."""

    record: TargetMove | None = None
    staging: bool = False
    held: str = ""
    content: int = 0
    ready: bool = False
    published: int = -1


@dataclass
class World:
    """Both hosts, and the plan of who is killed at which point. ``acknowledged`` counts the writes a writer was promised."""

    source: SourceDisk = field(default_factory=SourceDisk)
    target: TargetDisk = field(default_factory=TargetDisk)
    acknowledged: int = 3
    kill_at: int = -1
    kill: Party = Party.CLI
    points: int = 0
    dead: set[Party] = field(default_factory=set)
    cli_dead: bool = False
    guardian_at: int = -1
    given_up: bool = False  # the new home: what is left there is no move's any more

    def begin(self, kill_at: int, party: Party) -> None:
        """A new command: agents and command line are started anew."""
        self.kill_at, self.kill = kill_at, party
        self.points = 0
        self.dead = set()
        self.cli_dead = False

    def point(self, where: Party | None = None) -> None:
        """Somebody may be killed here; the writer writes; the promises are looked at."""
        if self.points == self.guardian_at:
            self.guardian()
        hang_up = self.points == self.kill_at and self.kill is Party.HANG_UP
        if self.points == self.kill_at:
            self._kill()
        self.points += 1
        self._write()
        self._look()
        if self.cli_dead and where is None:
            raise CliKilled
        if where is not None and where in self.dead:
            raise AgentKilled
        if hang_up and where is not None:
            raise HungUp

    def _kill(self) -> None:
        party = self.kill
        if party in (Party.CLI, Party.HANG_UP):
            self.cli_dead = True
        elif party in (Party.SOURCE, Party.SOURCE_HOST):
            self.dead.add(Party.SOURCE)
            if party is Party.SOURCE_HOST:
                self.source.lock = self.source.lease = False
        else:
            self.dead.add(Party.TARGET)

    def _write(self) -> None:
        if self.source.writable:
            self.source.writes += 1
            self.acknowledged = max(self.acknowledged, self.source.writes)
        if self.target.published >= 0:
            self.target.published += 1
            self.acknowledged = max(self.acknowledged, self.target.published)

    def _look(self) -> None:
        if self.source.writable and self.target.published >= 0:
            raise InvariantError("two writable copies")
        if (
            self.target.published >= 0
            and self.source.record is not None
            and self.source.record.phase not in (MOVED, RETIRED)
        ):
            raise InvariantError("published before the commit")

    def guardian(self) -> None:
        """The guardian of a lock whose agent is gone: as `agent.guardian` does it, with the real recovery."""
        if not self.source.lease:
            return
        self.source.lease = False
        record = self.source.record
        if record is not None and record.phase in (MOVED, RETIRED):
            self.source.lock = False
            return
        self.source.lock = False
        MovingSource(SourceGround(self, alive=True)).recover()
        self.source.hooks.append("after_unlock")

    def state(self) -> tuple[object, ...]:
        """What decides how it goes on: equal states need to be explored once."""
        s, t = self.source, self.target
        return (
            s.record and (s.record.phase, s.record.state_id and s.scans.get(s.record.state_id, -1) == s.writes),
            s.gone, s.registered, s.lock, s.lease,
            t.record and (t.record.phase, t.record.state_id == t.held),
            t.staging, bool(t.held), t.content == s.writes, t.ready, t.published >= 0,
            self.acknowledged == s.writes, self.given_up,
        )  # fmt: skip


class SourceGround:
    """A simulated `volumes.moving.ground.SourceGround`. ``alive``: it cannot be killed (the guardian's)."""

    def __init__(self, world: World, *, alive: bool = False) -> None:
        self._world = world
        self._disk = world.source
        self._alive = alive
        self.locked = False

    def _point(self) -> None:
        if not self._alive:
            self._world.point(Party.SOURCE)

    @contextlib.contextmanager
    def _operation(self) -> Iterator[SourceDisk]:
        self._point()
        yield self._disk
        self._point()

    def load(self) -> SourceMove | None:
        return self._disk.record

    def save(self, move: SourceMove) -> None:
        with self._operation() as disk:
            disk.record = move

    def remove(self) -> None:
        with self._operation() as disk:
            disk.record = None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        yield

    def assert_locked(self) -> None:
        self._point()
        if not (self.locked and self._disk.lock and self._disk.lease):
            raise RefusedError("not locked")

    def assert_unchanged(self, state_id: str) -> None:
        self._point()
        if self._disk.scans.get(state_id) != self._disk.writes:
            raise RefusedError("changed")

    def is_away(self, move: SourceMove) -> bool:
        del move
        return self._disk.away

    def take_away(self, move: SourceMove) -> None:
        del move
        while not self._disk.away:
            with self._operation() as disk:
                disk.gone = min(disk.parts, disk.gone + 1)

    def bring_back(self, move: SourceMove) -> None:
        del move
        while self._disk.gone:
            with self._operation() as disk:
                disk.gone = max(0, disk.gone - 1)  # the guardian may have been at it

    def unlock(self) -> None:
        with self._operation() as disk:
            self.locked = disk.lock = disk.lease = False

    def leave(self, move: SourceMove) -> None:
        del move
        with self._operation() as disk:
            self.locked = disk.lock = disk.lease = False
        with self._operation() as disk:
            disk.registered = False


class TargetGround:
    """A simulated `volumes.moving.ground.TargetGround`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._disk = world.target

    @contextlib.contextmanager
    def _operation(self) -> Iterator[TargetDisk]:
        self._world.point(Party.TARGET)
        yield self._disk
        self._world.point(Party.TARGET)

    def load(self) -> TargetMove | None:
        return self._disk.record

    def save(self, move: TargetMove) -> None:
        with self._operation() as disk:
            disk.record = move

    def remove(self) -> None:
        with self._operation() as disk:
            disk.record = None

    def open_staging(self, move: TargetMove) -> None:
        del move
        with self._operation() as disk:
            disk.staging = True

    def held_state(self) -> str:
        return self._disk.held

    def make_ready(self, move: TargetMove) -> TargetMove:
        with self._operation() as disk:
            disk.ready = True
        return dataclasses.replace(move, reserved=True)

    def publish(self, move: TargetMove) -> None:
        del move
        with self._operation() as disk:
            if disk.published < 0:
                if not disk.ready:
                    raise InvariantError("what was not ready is published")
                disk.published = disk.content
        with self._operation() as disk:
            disk.staging = False

    def discard(self, move: TargetMove) -> None:
        del move
        with self._operation() as disk:
            disk.staging = disk.ready = False
            disk.held, disk.content = "", 0


def _ask(world: World, party: Party, act: Callable[[], object]) -> object:
    """One message to an agent and its answer, as the command line sees it."""
    world.point()
    if party in world.dead:
        raise AgentError("the connection broke")
    try:
        answer = act()
    except AgentKilled:
        raise AgentError("the connection broke") from None
    except HungUp:
        raise CliKilled from None
    world.point()
    if party in world.dead:
        raise AgentError("the connection broke")
    return answer


class SourceSession:
    """`SourceHome` with the agent's part inside; `close` does what the agent does when its connection ends."""

    def __init__(self, world: World, move: SourceMove, *, begin: bool) -> None:
        self._world = world
        self._ground = SourceGround(world)
        self._machine = MovingSource(self._ground)
        self.volume: VolumeRecord | None = VolumeRecord("u", "vol", b"/vol", "directory", Epoch(1, "", "a"), 7)
        self.move: SourceMove | None = None
        self._dumps = 0

        def open_it() -> None:
            record = world.source.record
            if record is not None and record.phase == RETIRED:
                self.move = record
                return
            self.move = self._machine.begin(move) if begin else self._machine.recover()

        _ask(world, Party.SOURCE, open_it)

    def dump(self, base: str, manifest: Callable[[], Iterator[bytes]], sink: Sink) -> Sent:
        del base, manifest
        disk = self._world.source
        state = ""

        def scan() -> None:
            nonlocal state
            self._world.point(Party.SOURCE)
            state = f"state {disk.writes}"
            disk.scans[state] = disk.writes
            self._world.point(Party.SOURCE)

        _ask(self._world, Party.SOURCE, scan)
        sink.open()
        sink.feed(state.encode())
        held = sink.close()
        return Sent(held, 1, 1, 8, (), 0.1)

    def prepare_lock(self) -> None:
        _ask(self._world, Party.SOURCE, lambda: self._world.point(Party.SOURCE))

    def lock(self, *, seconds: int) -> None:
        del seconds

        def act() -> None:
            self._world.point(Party.SOURCE)
            if self._world.source.lock:
                raise BusyError("the volume is locked")
            self._world.source.lock = self._world.source.lease = self._ground.locked = True
            self._world.point(Party.SOURCE)

        _ask(self._world, Party.SOURCE, act)

    def unlock(self) -> None:
        _ask(self._world, Party.SOURCE, self._ground.unlock)

    def switch(self, epoch: Epoch, state_id: str) -> SourceMove:
        self.move = _ask(self._world, Party.SOURCE, lambda: self._machine.switch(epoch, state_id))  # type: ignore[assignment]
        assert self.move is not None
        return self.move

    def settle(self) -> None:
        self.move = _ask(self._world, Party.SOURCE, self._machine.settle)  # type: ignore[assignment]

    def abort(self) -> None:
        _ask(self._world, Party.SOURCE, self._machine.abort)

    def forget(self) -> None:
        _ask(self._world, Party.SOURCE, self._machine.forget)

    def close(self) -> None:
        """As `agent.moving.out` does it: a killed agent does nothing."""
        if Party.SOURCE in self._world.dead:
            return
        with contextlib.suppress(AgentKilled, HungUp):
            record = self._ground.load()
            if record is not None and record.phase in (MOVED, RETIRED):
                self._world.source.lock = self._world.source.lease = False
            else:
                self._machine.recover()
                self._ground.unlock()


class TargetSession:
    """`TargetHome` with the agent's part inside."""

    def __init__(self, world: World, move: TargetMove, *, begin: bool) -> None:
        self._world = world
        self._ground = TargetGround(world)
        self._machine = MovingTarget(self._ground)
        self.hostname = "b"
        self.lost: tuple[str, ...] = ()
        self.move: TargetMove | None = None
        self._coming = b""

        def open_it() -> None:
            self.move = self._machine.begin(move) if begin else self._machine.status()

        _ask(world, Party.TARGET, open_it)

    @property
    def held(self) -> str:
        return self._world.target.held

    def open(self) -> None:
        def act() -> None:
            if self._world.target.record is not None and self._world.target.record.phase == PREPARED:
                self._machine.reopen()
            self._world.point(Party.TARGET)
            self._world.target.ready = False

        _ask(self._world, Party.TARGET, act)

    direct = False

    def attend(self, timeout: float) -> bool:
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        self._coming = data

    def close(self) -> str:
        def act() -> None:
            self._world.point(Party.TARGET)
            disk = self._world.target
            disk.held = self._coming.decode()
            disk.content = int(disk.held.split()[1])
            self._world.point(Party.TARGET)

        _ask(self._world, Party.TARGET, act)
        return self.held

    def manifest(self) -> Iterator[bytes]:
        yield self.held.encode()

    def get_ready(self, *, wait: bool) -> None:
        del wait

        def act() -> None:
            self._world.point(Party.TARGET)
            self._world.target.ready = True
            self._world.point(Party.TARGET)

        _ask(self._world, Party.TARGET, act)

    def prepare(self, epoch: Epoch, state_id: str, sequence: int) -> None:
        self.move = _ask(  # type: ignore[assignment]
            self._world, Party.TARGET, lambda: self._machine.prepare(epoch, state_id, sequence)
        )

    def publish(self, proof: SourceMove) -> str:
        self.move = _ask(self._world, Party.TARGET, lambda: self._machine.publish(proof))  # type: ignore[assignment]
        return ""

    def abort(self) -> None:
        def act() -> None:
            record = self._machine.status()
            if record is not None:
                self._machine.abort(record.move_id)

        _ask(self._world, Party.TARGET, act)


def run_move(
    world: World, kill_at: int = -1, party: Party = Party.CLI, *, move_id: str = "first", late_guardian: bool = False
) -> str:
    """`voltool move`, or `--resume` where the source knows of a move; how it ended. ``late_guardian``: a guardian whose
    agent is gone has not noticed when the command is over."""

    def act(source: SourceSession, target: TargetSession) -> None:
        driver.run(source, target, OPTIONS, Silent(), "vol")

    return _command(world, kill_at, party, move_id, act, begin=True, late_guardian=late_guardian)


def run_abort(world: World, kill_at: int = -1, party: Party = Party.CLI) -> str:
    """`voltool move --abort`."""
    if world.source.record is None:
        return "no move"
    return _command(world, kill_at, party, "", driver.abort, begin=False)


def run_abort_alone(world: World, kill_at: int = -1, party: Party = Party.CLI) -> str:
    """`voltool move --abort --forget-target`."""
    if world.source.record is None:
        return "no move"

    def act(source: SourceSession, _target: TargetSession) -> None:
        world.given_up = True
        driver.abort_alone(source)

    return _command(world, kill_at, party, "", act, begin=False)


def _command(
    world: World,
    kill_at: int,
    party: Party,
    move_id: str,
    act: Callable[..., object],
    *,
    begin: bool,
    late_guardian: bool = False,
) -> str:
    """One command, from an empty catalog: what it needs it asks the hosts. Afterwards connections end, and then leases."""
    world.begin(kill_at, party)
    known = world.source.record
    peer = Peer("b", "", "b", b"/vol")
    move = known or SourceMove(move_id, "u", "vol", b"/vol", peer, COPYING, 0)
    arriving = TargetMove(move.move_id, "u", "vol", b"/vol", Peer("a", "machine a", "a", b"/vol"), RECEIVING, 0)
    source = None
    try:
        source = SourceSession(world, move, begin=begin)
        target = TargetSession(world, arriving, begin=begin)
        act(source, target)
        ended = "done"
    except CliKilled:
        ended = "killed"
    except VoltoolError as error:
        ended = error.kind
    if source is not None:
        world.cli_dead = False
        source.close()
    if not late_guardian:
        world.guardian()
    world.guardian_at = -1
    return ended
