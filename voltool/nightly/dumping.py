"""One pass of a run: the dumps of many volumes in several threads, watched; each ends with a record of its turn.

A thread does nothing but the dump job and the record in the catalog; whatever else a run does is the main thread's. What
they share: the catalog (a connection for each thread), stores (without state, or safe for several threads), the reporter
(which locks for itself). Ways to hosts are made anew for each dump.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from voltool.backup.options import dump_options
from voltool.backup.ports import World
from voltool.errors import AgentError, BusyError, UnreachableError, VoltoolError
from voltool.model import KnownVolume, StoredDump
from voltool.nightly.plan import Turn
from voltool.nightly.queue import TurnQueue
from voltool.nightly.watch import DeadHosts, Watch, stalled
from voltool.policy.runs import VolumeRun
from voltool.remote.follow import at_home
from voltool.replica.contact import TellSettings, tell_former_homes
from voltool.showing import shown

if TYPE_CHECKING:
    from voltool.backup.dump import DumpOutcome
    from voltool.config.settings import Settings

#: How often is looked for dumps that stand still, seconds.
_LOOK = 0.5
#: How long those that are ended from outside may take to clean up, seconds.
_GRACE = 90.0


@dataclass(frozen=True)
class Ended:
    """A volume's turn is over. ``dump`` where there is one; ``again``: another try may do better."""

    turn: Turn
    run: VolumeRun
    volume: KnownVolume
    error: VoltoolError | None = None
    dump: StoredDump | None = None
    again: bool = False


@dataclass
class Pass:
    """One attempt at each of ``turns``. ``attempts``: how many each had before, by volume name; ``day`` of the schedule
    (ISO)."""

    world: World
    settings: Settings
    run_id: str
    day: str
    turns: Sequence[Turn]
    attempts: dict[str, int]
    now_ns: Callable[[], int] = time.time_ns
    #: By the volume's name; complete as soon as a thread is done with it, whatever the main thread does meanwhile.
    results: dict[str, Ended] = field(default_factory=dict)
    _dead: DeadHosts = field(default_factory=DeadHosts)
    _watches: dict[str, Watch] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._waiting = TurnQueue(self.turns, self.settings.parallel_per_host)
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        number = min(self.settings.parallel, len(self.turns))
        self._threads = [
            threading.Thread(target=self._work, name=f"voltool-dump-{number}", daemon=True) for number in range(number)
        ]

    def run(self) -> Iterator[Ended]:
        """The turns as they end. After an Interruption `end` is to be called: what runs goes on until then."""
        for thread in self._threads:
            thread.start()
        threading.Thread(target=self._look_for_stalls, name="voltool-stall", daemon=True).start()
        try:
            for _ in self.turns:
                yield self.results[self._ended.get()]
        finally:
            self._over.set()

    def end(self, error: VoltoolError) -> None:
        """Begin no turn any more, end those that run with ``error``, and wait until they have cleaned up."""
        self._waiting.close()
        for watch in tuple(self._watches.values()):
            watch.end(error)
        deadline = time.monotonic() + _GRACE
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _look_for_stalls(self) -> None:
        limit = self.settings.stall_timeout
        while limit and not self._over.wait(min(_LOOK, limit / 4)):
            for name, watch in tuple(self._watches.items()):
                patience = limit + self._patience(name)
                if watch.silent_for() > patience:
                    host = next(turn.volume.host for turn in self.turns if turn.volume.name == name)
                    watch.end(stalled(host, patience))

    def _patience(self, name: str) -> int:
        """A hook says nothing while it runs, and has a limit of its own."""
        hooks = self.settings.volume(name).hooks
        longest = hooks.timeout if hooks.before_clone or hooks.after_clone else 0
        return longest if longest > self.settings.stall_timeout else 0

    def _work(self) -> None:
        while (turn := self._waiting.take()) is not None:
            name = turn.volume.name
            try:
                self.results[name] = self._attempt(turn)
            finally:
                self._watches.pop(name, None)
                self._waiting.give_back(turn)
            self._ended.put(name)

    def _attempt(self, turn: Turn) -> Ended:
        volume = turn.volume
        self.attempts[volume.name] = self.attempts.get(volume.name, 0) + 1
        run = begun(turn, self.run_id, self.day, self.now_ns())
        run = replace(run, attempts=self.attempts[volume.name])
        watch = Watch(self.world.hosts, self.world.reporter, self._dead)
        self._watches[volume.name] = watch
        home = [volume]
        try:
            outcome = self._dump(turn, watch, home)
        except VoltoolError as error:
            ended = _failed(turn, run, error, watch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other volumes get their dumps
            ended = _failed(turn, run, _unforeseen(error), watch)
        else:
            ended = _done(turn, run, outcome, watch)
        ended = replace(ended, volume=home[-1], run=replace(ended.run, ended_ns=self.now_ns(), host=home[-1].host))
        return self._remembered(ended)

    def _dump(self, turn: Turn, watch: Watch, home: list[KnownVolume]) -> DumpOutcome:
        from voltool.backup.dump import dump_volume

        world = replace(self.world, hosts=watch, reporter=watch)
        options = dump_options(self.settings, turn.volume.name, turn.store, {"level": turn.due.wanted})

        def act(volume: KnownVolume) -> DumpOutcome:
            home.append(volume)
            return dump_volume(world, volume, options)

        tell_former_homes(world, turn.volume, TellSettings(options.hooks))
        return at_home(world, world.catalog.volume(turn.volume.name), act)

    def _remembered(self, ended: Ended) -> Ended:
        try:
            self.world.catalog.add_run(ended.run)
        except VoltoolError as error:
            warnings = (*ended.run.warnings, f"the catalog does not take the record of this turn: {error}")
            return replace(ended, run=replace(ended.run, warnings=warnings))
        return ended


def begun(turn: Turn, run_id: str, day: str, now_ns: int) -> VolumeRun:
    """The record of a turn that begins now."""
    volume, found = turn.volume, turn.due
    return VolumeRun(
        run_id=run_id,
        volume=volume.name,
        volume_uuid=volume.uuid,
        host=volume.host,
        level=found.wanted,
        started_ns=now_ns,
        ended_ns=now_ns,
        exit_code=0,
        why=found.why,
        day=day,
    )


def _failed(turn: Turn, run: VolumeRun, error: VoltoolError, watch: Watch) -> Ended:
    run = replace(run, exit_code=error.exit_code, error=str(error), warnings=watch.warnings())
    return Ended(turn, run, turn.volume, error, again=watch.ended_by is None and _may_pass(error))


def _may_pass(error: VoltoolError) -> bool:
    """Whether what is wrong may be over in some minutes. A plain VoltoolError is of the world (a disk, a base that went)."""
    return isinstance(error, UnreachableError | BusyError | AgentError) or type(error) is VoltoolError


def _done(turn: Turn, run: VolumeRun, outcome: DumpOutcome, watch: Watch) -> Ended:
    dump = outcome.dump
    assert dump is not None, "only a dry run has none"
    problems = [f"{problem.problem.value}: {shown(problem.path)}: {problem.why}" for problem in dump.problems[:20]]
    if len(dump.problems) > len(problems):
        problems.append(f"and {len(dump.problems) - len(problems)} more files")
    run = replace(
        run,
        exit_code=outcome.exit_code,
        made_level=dump.header.level,
        dump_id=dump.header.dump_id,
        stored_bytes=dump.totals.stored_bytes,
        warnings=(*watch.warnings(), *problems),
    )
    return Ended(turn, run, turn.volume, dump=dump)


def _unforeseen(error: Exception) -> VoltoolError:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{frame.filename}:{frame.lineno}"
    return VoltoolError("something unforeseen happened", where=where, why=f"{type(error).__name__}: {error}")
