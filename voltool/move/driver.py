"""A move, step by step: copy, catch up, lock, the last increment, prepare, switch, publish, settle. And going on, and back.

Knows the hosts by `SourceHome` and `TargetHome` alone: the test that crashes everywhere runs this very code. Resuming needs
nothing but the two hosts' records: the new home holds a state, the old home sends the difference to it.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from voltool.errors import RefusedError, VoltoolError
from voltool.events import Reporter
from voltool.model import MOVED, RETIRED, Epoch, FileProblem, SourceMove
from voltool.move.ports import Sent, SourceHome, TargetHome
from voltool.move.predict import RoundResult, lock_limit, predicted_downtime, why_stop
from voltool.move.steps import LAST_INCREMENT, LOCK, PREPARE, PUBLISH, SETTLE, SWITCH, Steps
from voltool.showing import shown

#: What was written while a person thought about his answer for longer than this (seconds) is sent before the lock.
_STALE = 5.0
#: Of a tree with more entries the new home gets ready before the lock is made, not while: it takes longer than making the
#: lock, and the rest would be time under the lock. Of a smaller one that is less than a second.
_MANY = 200_000


@dataclass(frozen=True)
class MoveOptions:
    """``downtime`` seconds aimed at, ``max_rounds`` before the lock at the most, ``max_lock`` seconds (None: from the
    prediction). ``confirm`` is asked, with the prediction, when it is above ``downtime``; it raises to stop. ``lossy``:
    attributes that the new home's file system cannot hold may be lost."""

    downtime: float = 1.0
    max_rounds: int = 10
    max_lock: int | None = None
    confirm: Callable[[float], None] = lambda _seconds: None
    lossy: bool = False


@dataclass
class Moved:
    """What a move came to. ``downtime`` is None where another call of voltool had switched it already. ``hook_failed``: why
    ``after_online`` did not do what it should, once the volume was in service."""

    rounds: int = 0
    bytes: int = 0
    entries: int = 0
    downtime: float | None = None
    predicted: float = 0.0
    epoch: int = 0
    hook_failed: str = ""
    lengths: list[RoundResult] = field(default_factory=list)


def run(source: SourceHome, target: TargetHome, options: MoveOptions, reporter: Reporter, name: str) -> Moved:
    """Bring the volume to its new home, from wherever the two records say it is. Raises VoltoolError; what it left behind is
    in the records, and `run` again goes on."""
    done = Moved()
    steps = Steps(reporter, name)
    if source.move is not None and source.move.phase in (MOVED, RETIRED):
        _bring_into_service(source, target, steps, done)
    else:
        _catch_up(source, target, options, steps, done)
        _switch_over(source, target, options, steps, done)
    with steps.step(SETTLE):
        source.settle()
    return done


def abort(source: SourceHome, target: TargetHome) -> None:
    """Undo a move that is not committed: the old home first, durably, so that it can never be switched; then the copy is
    thrown away. RefusedError after the commit. Can be repeated."""
    source.abort()
    target.abort()
    source.forget()


def abort_alone(source: SourceHome) -> None:
    """Undo a move that is not committed without its new home, which is lost: what is left of the copy there can never be
    published, and the next move to there throws it away. RefusedError after the commit. Can be repeated."""
    source.abort()
    source.forget()


def _catch_up(source: SourceHome, target: TargetHome, options: MoveOptions, steps: Steps, done: Moved) -> None:
    while not _unlocked_round(source, target, options, steps, done):
        pass
    if done.predicted > options.downtime:
        asked = time.monotonic()
        options.confirm(done.predicted)
        if time.monotonic() - asked > _STALE:
            _unlocked_round(source, target, options, steps, done)


def _unlocked_round(source: SourceHome, target: TargetHome, options: MoveOptions, steps: Steps, done: Moved) -> str:
    """Why no further round follows; empty: one does."""
    step, to_come = steps.next_round(first=not done.lengths and not target.held, more=options.max_rounds > 1)
    before = target.held
    with steps.round(step, to_come):
        sent = _round(source, target, done)
    done.lengths.append(RoundResult(sent.seconds, sent.bytes, sent.entries, unchanged=sent.state_id == before))
    done.predicted = predicted_downtime(done.lengths[-1])
    why = why_stop(done.lengths, downtime=options.downtime, most=options.max_rounds)
    steps.sent(step, sent, predicted=done.predicted, why_stop=why)
    return why


def _round(source: SourceHome, target: TargetHome, done: Moved) -> Sent:
    sent = source.dump(target.held, target.manifest, target)
    done.bytes += sent.bytes
    done.entries = sent.entries
    return sent


def _switch_over(source: SourceHome, target: TargetHome, options: MoveOptions, steps: Steps, done: Moved) -> None:
    _refuse_losses(target, options)
    limit = lock_limit(done.predicted, options.max_lock)
    target.get_ready(wait=done.entries > _MANY)
    source.prepare_lock()
    began = time.monotonic()
    with steps.locked(limit):
        with steps.step(LOCK):
            source.lock(seconds=limit)
        try:
            proof = _last_increment(source, target, options, steps, done)
        except BaseException:
            with contextlib.suppress(VoltoolError):  # where the session is over, its end has unlocked it
                source.unlock()
            raise
        with steps.step(PUBLISH):
            done.hook_failed = target.publish(proof)
    done.rounds = len(done.lengths) + 1
    done.downtime = time.monotonic() - began


def _last_increment(
    source: SourceHome, target: TargetHome, options: MoveOptions, steps: Steps, done: Moved
) -> SourceMove:
    """Under the lock, up to the commit; the record that proves it."""
    assert source.volume is not None
    with steps.round(LAST_INCREMENT, steps.after(LAST_INCREMENT)):
        sent = _round(source, target, done)
        _refuse_incomplete(sent.problems)
    steps.sent(LAST_INCREMENT, sent)
    epoch = Epoch(source.volume.epoch.number + 1, secrets.token_hex(16), target.hostname)
    with steps.step(PREPARE):
        target.prepare(epoch, sent.state_id, sent.sequence + 1)
        _refuse_losses(target, options)
    with steps.step(SWITCH):
        proof = source.switch(epoch, sent.state_id)
    done.epoch = epoch.number
    return proof


def _refuse_losses(target: TargetHome, options: MoveOptions) -> None:
    if target.lost and not options.lossy:
        raise RefusedError(
            "the new home's file system cannot hold everything of the volume",
            where=target.hostname,
            why="; ".join(target.lost),
            remedy="--lossy, or begin anew with a target on another file system, or without what cannot be held",
        )


def _refuse_incomplete(problems: tuple[FileProblem, ...]) -> None:
    """Under the lock everything is at rest: what could not be read would be lost at the new home."""
    if problems:
        first = problems[0]
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise RefusedError(
            "not everything of the volume can be read",
            where=f"{shown(first.path)}{more}",
            why=first.why,
            remedy="repair or remove it, then voltool move --resume",
        )


def _bring_into_service(source: SourceHome, target: TargetHome, steps: Steps, done: Moved) -> None:
    proof = source.move
    assert proof is not None
    assert proof.epoch is not None
    done.epoch = proof.epoch.number
    with steps.step(PUBLISH):
        done.hook_failed = target.publish(proof)
