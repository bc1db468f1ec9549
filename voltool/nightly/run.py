"""The unattended run: everything that is due, with limits, retries and a report, whatever happens on the way.

One run at a time on a machine's state directory. Each volume's turn is in the catalog as soon as it ends. An interruption ends
what runs, cleanly; the report is made and announced all the same.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from voltool.backup.ports import World
from voltool.durable import FileLock, make_directory
from voltool.errors import EXIT_FAILED, BusyError, InterruptedByUser, Interruption, VoltoolError, combined_exit_code
from voltool.nightly.dumping import Ended, Pass, begun
from voltool.nightly.plan import LeftOut, Plan, Turn
from voltool.nightly.ports import Announcer, Learner, NoAnnouncer, Upkeep, no_learner, no_upkeep
from voltool.policy.runs import RunReport, UpkeepOutcome, VolumeRun

if TYPE_CHECKING:
    from voltool.config.settings import Settings

#: The longest wait before another pass, seconds.
_LONGEST_WAIT = 3600


class Listener(Protocol):
    """Who shows a run as it goes; called in the main thread."""

    def turn_ended(self, ended: Ended) -> None:
        """A volume's turn is over for good."""

    def left_out(self, left_out: LeftOut) -> None:
        """A volume does not get its turn."""

    def kept_up(self, volume: str, outcome: UpkeepOutcome) -> None:
        """What the upkeep after a dump did."""

    def tried_again(self, failed: tuple[Ended, ...], seconds: float) -> None:
        """These failed and are tried again, after so many seconds."""


@dataclass
class Run:
    """One run of ``plan``. ``state`` is the state directory. ``upkeep``, ``announcer``, ``learner``: see `nightly.ports`."""

    world: World
    settings: Settings
    plan: Plan
    listener: Listener
    upkeep: Upkeep = no_upkeep
    announcer: Announcer = field(default_factory=NoAnnouncer)
    learner: Learner = no_learner
    now_ns: Callable[[], int] = time.time_ns
    sleep: Callable[[float], None] = time.sleep
    #: What ended it before its time, if anything.
    interrupted: InterruptedByUser | None = None
    #: What the announcer could not tell.
    untold: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.run_id = new_run_id(self.now_ns())
        self._ended: dict[str, Ended] = {}
        self._left_out: list[VolumeRun] = []
        self._faults: list[str] = [str(error) for error in self.plan.faults]
        self._codes: list[int] = [error.exit_code for error in self.plan.faults]
        self._alarms: list[str] = []
        self._attempts: dict[str, int] = {}
        self._told: set[str] = set()

    def run(self) -> RunReport:
        """The whole run; never raises for what is wrong with volumes, nor for an interruption (see ``interrupted``)."""
        started_ns = self.now_ns()
        self.announcer.started(self.run_id)
        try:
            for left_out in self.plan.left_out:
                self._leave_out(left_out)
            self._pass_until_done()
        except Interruption as interruption:
            self.interrupted = interruption.error
            self._codes.append(interruption.error.exit_code)
            self._faults.append(str(interruption.error))
        for turn in self.plan.turns:
            if turn.volume.name not in self._ended:
                self._never_begun(turn)
        report = self._report(started_ns)
        self.untold = self.announcer.ended(report)
        return report

    # ------------------------------------------------------------------------------------------------------ passes

    def _pass_until_done(self) -> None:
        """One pass over everything, and further ones over what failed and may do better, with growing waits between."""
        import tenacity

        waiting = list(self.plan.turns)

        def once() -> bool:
            failed = self._one_pass(waiting)
            waiting[:] = [ended.turn for ended in failed]
            return bool(waiting)

        def before_sleep(state: tenacity.RetryCallState) -> None:
            seconds = state.next_action.sleep if state.next_action is not None else 0.0
            self.listener.tried_again(tuple(self._ended[turn.volume.name] for turn in waiting), seconds)

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(1 + self.settings.retries),
            wait=tenacity.wait_exponential(multiplier=self.settings.retry_wait, max=_LONGEST_WAIT),
            retry=tenacity.retry_if_result(bool),
            retry_error_callback=lambda _state: False,
            sleep=self.sleep,
            before_sleep=before_sleep,
        )
        try:
            retrying(once)
        finally:
            for ended in tuple(self._ended.values()):
                self._tell(ended)

    def _one_pass(self, turns: list[Turn]) -> list[Ended]:
        """Those that are worth another try."""
        day = self.plan.day.isoformat()
        this = Pass(self.world, self.settings, self.run_id, day, tuple(turns), self._attempts, self.now_ns)
        again = []
        try:
            for ended in this.run():
                self._ended[ended.turn.volume.name] = ended
                if ended.again:
                    again.append(ended)
                else:
                    self._after(ended)
        except Interruption as interruption:
            this.end(interruption.error)
            self._ended.update(this.results)
            raise
        return again

    # ------------------------------------------------------------------------------------------------ after a dump

    def _after(self, ended: Ended) -> None:
        """What follows a turn that is over for good. What fails here, foreseen or not, must not keep others from their dumps."""
        if ended.dump is None:
            self._tell(ended)
            return
        try:
            self.learner(ended.dump)
        except Exception as error:  # noqa: BLE001 - see above
            warnings = (*ended.run.warnings, f"dumped, but not in the index of names: {error}")
            ended = replace(ended, run=replace(ended.run, warnings=warnings))
            self._ended[ended.turn.volume.name] = ended
        self._tell(ended)
        try:
            outcome = self.upkeep(ended.volume, self.now_ns())
        except Exception as error:  # noqa: BLE001 - see above
            outcome = UpkeepOutcome(faults=(f"the upkeep failed: {type(error).__name__}: {error}",))
        self._keep_in_mind(ended.turn.volume.name, outcome)

    def _keep_in_mind(self, name: str, outcome: UpkeepOutcome) -> None:
        self._faults += [_of_volume(name, fault) for fault in outcome.faults]
        self._alarms += [_of_volume(name, alarm) for alarm in outcome.alarms]
        if outcome.faults or outcome.alarms:
            self._codes.append(EXIT_FAILED)
        self.listener.kept_up(name, outcome)

    def _tell(self, ended: Ended) -> None:
        """Once."""
        if ended.turn.volume.name not in self._told:
            self._told.add(ended.turn.volume.name)
            self.listener.turn_ended(ended)

    # ---------------------------------------------------------------------------------------------------- the report

    def _leave_out(self, left_out: LeftOut) -> None:
        volume, error, now_ns = left_out.volume, left_out.error, self.now_ns()
        self._remember(
            VolumeRun(
                run_id=self.run_id,
                volume=left_out.name,
                volume_uuid=volume.uuid if volume else "",
                host=volume.host if volume else "",
                level=0,
                started_ns=now_ns,
                ended_ns=now_ns,
                exit_code=error.exit_code,
                attempts=0,
                error=str(error),
            )
        )
        self.listener.left_out(left_out)

    def _never_begun(self, turn: Turn) -> None:
        error = self.interrupted or InterruptedByUser("interrupted")
        run = begun(turn, self.run_id, self.plan.day.isoformat(), self.now_ns())
        self._remember(
            replace(run, attempts=0, exit_code=error.exit_code, error="the run was interrupted before its turn")
        )

    def _remember(self, run: VolumeRun) -> None:
        self._left_out.append(run)
        try:
            self.world.catalog.add_run(run)
        except VoltoolError as error:
            self._faults.append(f"{run.volume}: the catalog does not take the record of this turn: {error}")
            self._codes.append(error.exit_code)

    def _report(self, started_ns: int) -> RunReport:
        runs = sorted([*self._left_out, *(ended.run for ended in self._ended.values())], key=lambda run: run.volume)
        return RunReport(
            run_id=self.run_id,
            started_ns=started_ns,
            ended_ns=self.now_ns(),
            exit_code=combined_exit_code([*self._codes, *(run.exit_code for run in runs)]),
            volumes=tuple(runs),
            unscheduled=self.plan.unscheduled,
            faults=tuple(self._faults),
            alarms=tuple(self._alarms),
        )


def _of_volume(name: str, text: str) -> str:
    return text if text.startswith(f"{name}: ") else f"{name}: {text}"


@contextlib.contextmanager
def alone(state: str, owner: str) -> Iterator[None]:
    """Inside, no other run works with the state directory ``state`` (made where it is missing); BusyError says who does."""
    make_directory(state)
    lock = FileLock(os.path.join(state, "backup.lock"), what="voltool backup", owner=owner)
    try:
        lock.acquire()
    except BusyError as error:
        remedy = "wait until it is done; its lock ends with it"
        raise BusyError("another voltool backup is running", why=error.why, remedy=remedy) from None
    try:
        yield
    finally:
        lock.release()


def new_run_id(now_ns: int) -> str:
    """Sorts by time; unique also when a clock went back."""
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_ns // 1_000_000_000))
    return f"{moment}-{secrets.token_hex(4)}"
