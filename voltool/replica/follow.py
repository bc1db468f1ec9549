"""`voltool replica sync --follow`: keeps replicas level until a signal comes, each in a thread of its own, over connections that
stay open. Every change of state is told, once."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from voltool.errors import InterruptedByUser, Interruption, NotFoundError, VoltoolError
from voltool.events import Notice
from voltool.model import LAZY
from voltool.policy.replicas import REPLICA, standing_of
from voltool.replica.job import GRACE, note, remember, surroundings, unforeseen
from voltool.replica.pair import How, Pair, Round, bring
from voltool.replica.ports import World
from voltool.replica.target import SettingsOf, Target
from voltool.replica.ways import Ways

#: States of a follower: the last round went well; it did not; the replica is stale as well; there is no such replica any more.
LEVEL, FAILING, STALE, GONE = "level", "failing", "stale", "gone"
#: The longest pause (seconds) between two attempts after failures.
LONGEST_PAUSE = 60.0
#: A round that takes long is followed by a pause of this part of it at the least: scanning must not be all that a host does.
_REST = 0.25
#: How often (seconds) is looked for replicas that were added meanwhile, and how often the catalog hears that all is well.
_LOOK, _REMEMBER = 5.0, 5.0
#: From one look at a lazy replica to the next, at the least (seconds).
_LAZY_INTERVAL = 10.0
#: How long a round may go on after the signal, seconds.
_PATIENCE = 5.0


@dataclass(frozen=True)
class Change:
    """The state of a replica is another one now. ``why``: of a failure; ``pause``: seconds until the next attempt."""

    target: Target
    state: str
    why: str = ""
    pause: float = 0.0


@dataclass(frozen=True)
class FollowOptions:
    """``interval``: seconds from the begin of one round to the next; ``max_lag`` of a volume by its name, in seconds."""

    settings: SettingsOf
    interval: float
    max_lag: Callable[[str], int | None]


@dataclass(frozen=True)
class _Heard:
    """What a follower tells the main thread."""

    replica_id: str
    target: Target
    round: Round | None = None
    error: VoltoolError | None = None
    pause: float = 0.0


def follow(
    world: World, targets: Callable[[], list[Target]], options: FollowOptions, told: Callable[[Change], None]
) -> None:
    """Keep ``targets`` level until a signal comes, also those that are added meanwhile. NotFoundError when none is left."""
    crew = _Crew(world, options, told)
    try:
        crew.take_on(targets())
        while crew.followers:
            crew.listen(_LOOK)
            with contextlib.suppress(NotFoundError):
                crew.take_on(targets())
    except Interruption as interruption:
        crew.end(interruption.error)
        return
    except BaseException:
        crew.end(InterruptedByUser("another replica's follower failed"))
        raise
    raise NotFoundError("no replica is left to be followed", remedy="voltool replica list")


class _Crew:
    """The followers, and the main thread's memory of how they stand."""

    def __init__(self, world: World, options: FollowOptions, told: Callable[[Change], None]) -> None:
        self._world = world
        self._options = options
        self._told = told
        self._heard: queue.SimpleQueue[_Heard] = queue.SimpleQueue()
        self._over = threading.Event()
        self._states: dict[str, tuple[str, str]] = {}
        self._remembered: dict[str, float] = {}
        self._unsaved: dict[str, _Heard] = {}
        self.followers: dict[str, _Follower] = {}

    def take_on(self, targets: list[Target]) -> None:
        """Begin to follow those that are new."""
        for target in targets:
            identity = target.replica.replica_id
            if identity not in self.followers and self._states.get(identity, ("", ""))[0] != GONE:
                self.followers[identity] = _Follower(self._world, target, self._options, self._heard, self._over)
                self.followers[identity].thread.start()

    def listen(self, seconds: float) -> None:
        """Take what the followers say, for so long."""
        deadline = time.monotonic() + seconds
        while self.followers and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._take(self._heard.get(timeout=left))

    def end(self, error: VoltoolError) -> None:
        """Nobody begins a round any more; who is in one may end it, but not for long. The catalog learns how all stand."""
        self._over.set()
        deadline = time.monotonic() + _PATIENCE
        for follower in self.followers.values():
            follower.thread.join(max(0.0, deadline - time.monotonic()))
        for follower in self.followers.values():
            follower.ways.end(error)
        deadline = time.monotonic() + GRACE
        for follower in self.followers.values():
            follower.thread.join(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(queue.Empty):
            while True:
                heard = self._heard.get_nowait()
                if heard.round is not None:
                    self._unsaved[heard.replica_id] = heard
        for heard in self._unsaved.values():
            self._save(heard)

    def _take(self, heard: _Heard) -> None:
        if isinstance(heard.error, _GoneError):
            del self.followers[heard.replica_id]
            self._tell(heard, GONE, heard.error.what)
            return
        known = self._remember(heard)
        if heard.error is None:
            self._tell(heard, LEVEL, "")
            return
        name = heard.target.volume.name
        stale = standing_of(name, known.replica, time.time_ns(), self._options.max_lag(name)).is_stale
        self._tell(heard, STALE if stale else FAILING, str(heard.error))

    def _tell(self, heard: _Heard, state: str, why: str) -> None:
        if self._states.get(heard.replica_id) != (state, why):
            self._states[heard.replica_id] = (state, why)
            self._told(Change(heard.target, state, why, heard.pause))

    def _remember(self, heard: _Heard) -> Target:
        """In the catalog; of rounds that go well not each, for there is one every second."""
        before = self._states.get(heard.replica_id, ("", ""))[0]
        now = time.monotonic()
        if heard.error is None and before == LEVEL and now < self._remembered.get(heard.replica_id, 0.0) + _REMEMBER:
            self._unsaved[heard.replica_id] = heard
            return heard.target
        self._remembered[heard.replica_id] = now
        self._unsaved.pop(heard.replica_id, None)
        return self._save(heard)

    def _save(self, heard: _Heard) -> Target:
        try:
            if heard.round is not None:
                return remember(self._world, heard.target, heard.round).target
            assert heard.error is not None
            return note(self._world, heard.target, heard.error)
        except VoltoolError as error:
            self._world.reporter.report(
                Notice("warning", f"the catalog does not learn of {heard.target.subject}: {error}")
            )
            return heard.target


class _GoneError(NotFoundError):
    """The replica is none any more."""


class _OverError(VoltoolError):
    """The signal has come."""


class _Follower:
    """Keeps one replica level."""

    def __init__(
        self,
        world: World,
        target: Target,
        options: FollowOptions,
        heard: queue.SimpleQueue[_Heard],
        over: threading.Event,
    ) -> None:
        self._world = surroundings(world, target, quietly=True)
        assert isinstance(self._world.hosts, Ways)
        self.ways = self._world.hosts
        self._target = target
        self._options = options
        self._heard = heard
        self._over = over
        self.thread = threading.Thread(target=self._run, name=f"voltool-follow-{target.subject}", daemon=True)

    def _run(self) -> None:
        """Rounds until the signal; after a failure attempts with growing pauses until one succeeds, then rounds again."""
        try:
            with Pair() as pair:
                while not self._over.is_set():
                    self._until_level(pair)
                    self._while_level(pair)
        except _OverError:
            return
        except _GoneError as error:
            self._say(error=error)
        except Exception as error:  # noqa: BLE001 - the others go on
            self._say(error=_GoneError(f"its follower failed: {unforeseen(error)}"))

    def _until_level(self, pair: Pair) -> None:
        import tenacity

        def failed(state: tenacity.RetryCallState) -> None:
            assert state.outcome is not None
            error = state.outcome.exception()
            assert isinstance(error, VoltoolError)
            self._say(error=error, pause=state.upcoming_sleep)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=tenacity.wait_exponential_jitter(initial=1.0, max=LONGEST_PAUSE, jitter=0.5),
            sleep=tenacity.sleep_using_event(self._over),
            before_sleep=failed,
            reraise=True,
        )
        retrying(self._round, pair)

    def _while_level(self, pair: Pair) -> None:
        began = time.monotonic()
        while not self._over.is_set():
            took = time.monotonic() - began
            if self._over.wait(max(self._interval() - took, took * _REST)):
                return
            began = time.monotonic()
            try:
                self._round(pair)
            except VoltoolError as error:
                if not _may_pass(error):
                    raise
                self._say(error=error)
                return

    def _interval(self) -> float:
        """A lazy replica fills by itself; a round only sees that it does."""
        return max(self._options.interval, _LAZY_INTERVAL if self._target.replica.phase == LAZY else 0.0)

    def _round(self, pair: Pair) -> None:
        if self._over.is_set():
            raise _OverError("over")
        self._target = self._known()
        settings = self._options.settings(self._target.volume.name)
        try:
            done = bring(self._world, self._target, How(settings, until_level=False), pair)
        except VoltoolError:
            if self._over.is_set():
                raise _OverError("over") from None
            raise
        except Exception as error:
            raise unforeseen(error) from error
        self._target = Target(done.volume, self._target.replica)
        self._say(done=done)

    def _known(self) -> Target:
        """As the catalog has it now: whoever removed or promoted it did that there, or moved the volume."""
        replica = self._target.replica
        known = next(
            (
                each
                for each in self._world.catalog.replicas(replica.volume_uuid)
                if each.replica_id == replica.replica_id
            ),
            None,
        )
        volume = next(
            (each for each in self._world.catalog.volumes() if each.uuid == replica.volume_uuid), self._target.volume
        )
        if known is None or known.role != REPLICA:
            raise _GoneError("it is no replica any more")
        return Target(volume, known)

    def _say(self, *, done: Round | None = None, error: VoltoolError | None = None, pause: float = 0.0) -> None:
        self._heard.put(_Heard(self._target.replica.replica_id, self._target, done, error, pause))


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, VoltoolError) and not isinstance(error, _GoneError | _OverError)
