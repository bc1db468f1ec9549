"""The verb StartInPlace: a directory that stands is brought to a dump's state, writing only what differs. Ships to servers.

Joins the conversation and `tree.inplace`; the order of messages stands in `wire.messages.StartInPlace`. What goes wrong leaves
staging as it is: the next run compares anew and goes on with what has arrived.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import Iterator, List, Optional, Tuple

from voltool.agent.chunks import ChunkStream
from voltool.agent.host import HostState
from voltool.agent.manifest import receive_manifest
from voltool.agent.pace import Pace
from voltool.agent.restore import check_room, receive_dump, resolve_target, tell_about_staging, worker_count
from voltool.agent.standing import take_standing
from voltool.errors import HostError, RefusedError
from voltool.events import Notice, PhaseEnded, PhaseStarted
from voltool.model import FileProblem, Problem
from voltool.showing import shown
from voltool.tree.apply.applier import ApplySettings
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.files import translate
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.staging import StagingKey, make_private
from voltool.tree.inplace.act import Actor
from voltool.tree.inplace.compare import Comparer
from voltool.tree.inplace.ground import Ground
from voltool.tree.inplace.patch import Patcher
from voltool.tree.inplace.plan import CHANGE, LEAVE, WRITE, Plan, lacking, patches
from voltool.tree.inplace.planner import Planner
from voltool.tree.inplace.scope import Scope
from voltool.tree.inplace.staged import Stage, StagedArrival, is_staged, staged_path
from voltool.tree.inplace.survey import Left, Survey
from voltool.tree.state import BaseState, StateKeeper
from voltool.volumes import records
from voltool.volumes.mounts import is_within
from voltool.wire import messages
from voltool.wire.conversation import Conversation
from voltool.wire.numbers import encode_numbers

#: Numbers and names of a plan that travel together.
_NUMBERS, _NAMES = 8192, 500
#: How many places an error or a notice names.
_NAMED = 5
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_VERIFIED = 200


def restore_in_place(
    request: messages.StartInPlace, conversation: Conversation, host: HostState
) -> messages.InPlaceReply | messages.Done:
    """Handle `StartInPlace`. Raises RefusedError (what is in the way, a volume that is not to be touched), SpaceError, ..."""
    target = resolve_target(request.target)
    with contextlib.ExitStack() as stack:
        for volume in take_standing(target, host, stack):
            if volume.uuid != request.volume_uuid:
                text = (
                    f"{shown(target)} is the volume {volume.name}, or in it, and the dump is of {request.volume_name}"
                )
                conversation.report(Notice("warning", text))
        return _InPlace(request, conversation, host, target, stack).run()


class _InPlace:
    """One restore in place on its host."""

    def __init__(
        self,
        request: messages.StartInPlace,
        conversation: Conversation,
        host: HostState,
        target: bytes,
        stack: contextlib.ExitStack,
    ) -> None:
        self._request = request
        self._conversation = conversation
        self._host = host
        self._stack = stack
        self._key = StagingKey(target, request.volume_uuid, request.state_id, f"in place {request.selection}")
        root = os.open(target, _DIRECTORY)
        stack.callback(os.close, root)
        self._before = os.fstat(root)
        self._stage = Stage(self._key)
        self._staging = self._stage.staging
        stack.callback(self._stage.close)
        records.remember_area(host.directory, self._staging.path)
        self._ground = Ground(root)
        stack.callback(self._ground.close)
        self._owners = Owners(numeric=request.numeric_owner)
        self._keeper = StateKeeper(os.path.join(self._staging.path, b"states"))
        self._scope = Scope(request.only, request.excludes, delete=request.delete)
        self._losses = Losses()
        self._pace = Pace(conversation, request.volume_name, 0)

    def run(self) -> messages.InPlaceReply | messages.Done:
        """The whole conversation."""
        try:
            state = receive_manifest(self._conversation, self._keeper, self._request.state_id, self._owners)
            self._stack.callback(state.close)
            tell_about_staging(self._staging, self._conversation)
            plan = self._plan(state, light=False)
            self._stack.callback(plan.close)
            self._tell(plan, state)
            if self._request.dry_run or not isinstance(self._conversation.receive(), messages.Proceed):
                self._give_up()
                return messages.Done()
        except BaseException:
            self._give_up()
            raise
        self._receive()
        if plan.patches.count:
            self._receive_chunks(plan, state)
        problems = self._act(plan, state)
        return messages.InPlaceReply(tuple(problems))

    def _give_up(self) -> None:
        """Nothing was done: leave no trace of it, but what an earlier run may go on with."""
        if not self._stage.fresh:
            return
        self._remove_staging()
        if is_within(
            self._staging.path, self._key.target
        ):  # to have made staging in it has changed the directory's time
            with contextlib.suppress(OSError):
                os.utime(self._ground.root, ns=(self._before.st_atime_ns, self._before.st_mtime_ns))

    def _remove_staging(self) -> None:
        self._staging.remove()
        records.forget_area(self._host.directory, self._staging.path)

    # ------------------------------------------------------------------------------------------------------ the plan

    def _plan(self, state: BaseState, *, light: bool) -> Plan:
        name, phase = self._request.volume_name, "check" if light else "compare"
        self._conversation.report(PhaseStarted(name, phase))
        try:
            survey = Survey(self._ground, state, self._scope, self._staging.path)
            survey.run()
            if not light:
                self._refuse(survey.conflicts)
            comparer = Comparer(self._ground, self._owners, light=light)
            planner = Planner(
                self._ground,
                self._keeper,
                state,
                survey,
                comparer,
                self._staging.path,
                limit=_VERIFIED if light else self._request.limit,
                tick=lambda files, size: self._pace.progress(phase, size, files),
            )
            plan = planner.make()
        except OSError as error:
            raise HostError(
                "the directory could not be looked at", where=shown(self._key.target), why=error.strerror or str(error)
            ) from error
        self._conversation.report(PhaseEnded(name, phase))
        return plan

    def _refuse(self, conflicts: List[Left]) -> None:
        if not conflicts:
            return
        more = f", and {len(conflicts) - _NAMED} more" if len(conflicts) > _NAMED else ""
        named = "; ".join(f"{shown(one.path)}: {one.why}" for one in conflicts[:_NAMED])
        raise RefusedError(
            "the directory cannot be restored in place as it is",
            where=shown(self._key.target),
            why=named + more,
            remedy="move it aside, or --delete where that what the dump does not have may go",
        )

    def _tell(self, plan: Plan, state: BaseState) -> None:
        """The plan, with some names, and what is needed. (Of what is left alone the notices tell.)"""
        transfer = not self._stage.covers(plan.needed)
        if transfer:
            check_room(self._staging, plan.needed_bytes, plan.needed_count)
        self._name_left(plan)
        for kind, paths in _grouped(plan.names):
            self._conversation.send(messages.PlannedNames(kind, paths))
        if not self._request.dry_run:
            self._stage.prepare(plan.needed)
        counts = plan.counts
        self._conversation.send(
            messages.InPlacePlan(
                created=counts.created,
                written=counts.written,
                bytes=counts.bytes,
                changed=counts.changed,
                linked=counts.linked,
                deleted=counts.deleted,
                kept=counts.kept,
                transfer=transfer,
                needed_bytes=plan.needed_bytes,
                resume_after=self._staging.progress.resume_after if self._stage.transfer else 0,
                patches=plan.patches.count > 0,
            )
        )
        self._send_numbers(self._stage.asked.numbers(0, 1 << 63) if self._stage.transfer else iter(()))
        if plan.patches.count:
            self._send_numbers(self._chunk_numbers(plan, state))

    def _chunk_numbers(self, plan: Plan, state: BaseState) -> Iterator[int]:
        for patch in patches(plan, state):
            if not is_staged(self._staging.descriptor, staged_path(patch.record.number)):
                for index in patch.chunks:
                    yield from (patch.record.number, index)

    def _send_numbers(self, numbers: Iterator[int]) -> None:
        while block := list(itertools.islice(numbers, _NUMBERS)):
            self._conversation.send_data(encode_numbers(block))
        self._conversation.send(messages.EndOfData())

    def _name_left(self, plan: Plan) -> None:
        for left in plan.survey.left[: _NAMED * 4]:
            self._conversation.report(Notice("warning", f"{shown(left.path)} is left alone: {left.why}"))
        more = len(plan.survey.left) - _NAMED * 4
        if more > 0:
            self._conversation.report(Notice("warning", f"and {more} more are left alone"))

    # ------------------------------------------------------------------------------------------------------ the deed

    def _receive(self) -> None:
        """All that is needed, into staging, whole and checked."""
        if not self._stage.transfer:
            return
        settings = ApplySettings(
            key=self._key,
            numeric_owner=self._request.numeric_owner,
            workers=self._request.workers or worker_count(),
            subject=self._request.volume_name,
        )
        with contextlib.closing(StagedArrival(self._staging, settings, self._conversation)) as arrival:
            receive_dump(self._conversation, arrival.feed, self._request.bandwidth)
            self._losses = arrival.arrive()

    def _receive_chunks(self, plan: Plan, state: BaseState) -> None:
        """Large files of which little differs are made of what stands. One that has changed since is not made, and is left."""
        umask = os.umask(0)
        make_private(self._staging.descriptor, b"links")
        comparer = Comparer(self._ground, self._owners)
        chunks = ChunkStream(self._conversation, self._request.bandwidth)
        try:
            attributes = Attributes(self._owners, self._losses)
            with contextlib.closing(Patcher(self._ground, self._staging.descriptor, attributes)) as patcher:
                make_private(self._staging.descriptor, os.path.dirname(os.path.dirname(staged_path(1))))
                make_private(self._staging.descriptor, os.path.dirname(staged_path(1)))
                for patch in patches(plan, state):
                    if is_staged(self._staging.descriptor, staged_path(patch.record.number)):
                        continue
                    good = patcher.begin(patch.record, patch.path, patch.seen)
                    for index in patch.chunks:
                        data = chunks.next(patch.record.number, index)
                        if good:
                            patcher.write(patch.record, index, data)
                    if good:
                        patcher.finish(patch.record, comparer)
            chunks.end()
        except OSError as error:
            raise translate(error, "to the staging directory") from error
        finally:
            os.umask(umask)

    def _act(self, plan: Plan, state: BaseState) -> List[FileProblem]:
        umask = os.umask(0)
        name = self._request.volume_name
        try:
            total = plan.actions.count
            self._conversation.report(PhaseStarted(name, "apply", 0, total))
            actor = Actor(
                self._ground,
                self._staging,
                state,
                Attributes(self._owners, self._losses),
                Comparer(self._ground, self._owners),
                self._losses,
                tick=lambda done: self._pace.progress("apply", 0, done),
            )
            actor.run(plan)
            self._conversation.report(PhaseEnded(name, "apply"))
            problems = [*plan.problems, *_as_problems(lacking(plan)), *actor.problems]
            problems += self._verify(state, {problem.path for problem in problems})
            self._remove_staging()
            actor.finish_root()
        except OSError as error:
            raise HostError(
                "the directory could not be changed",
                where=shown(self._key.target),
                why=error.strerror or str(error),
                remedy="run the same restore again: it goes on",
            ) from error
        finally:
            os.umask(umask)
        self._report_losses()
        return problems

    def _verify(self, state: BaseState, known: set[bytes]) -> List[FileProblem]:
        """Look once more: names, links, sizes and attributes are the dump's, but for what is known, and the root, whose turn
        comes last."""
        with contextlib.closing(self._plan(state, light=True)) as plan:
            vague = {CHANGE, WRITE} if self._losses.attributes else set()
            wrong = [(kind, path) for kind, path in plan.names if kind not in vague | {LEAVE} and path]
            # What could not be touched takes others with it, above and below.
            wrong = [(kind, path) for kind, path in wrong if not _touches(path, known)]
        why = "it is not as the dump has it after the restore: somebody changes it, or the target cannot hold it"
        return [FileProblem(Problem.LEFT, path, why) for _kind, path in wrong]

    def _report_losses(self) -> None:
        for what, (count, _first) in sorted(self._losses.attributes.items()):
            number = f" of {count} objects" if count > 1 else " of one object"
            self._conversation.report(Notice("warning", f"not restored: {what}{number}"))


def _as_problems(left: List[Left]) -> List[FileProblem]:
    return [FileProblem(Problem.LEFT, one.path, one.why) for one in left]


def _touches(path: bytes, others: set[bytes]) -> bool:
    """Whether ``path`` is one of the others, or above or below one."""
    return any(path == other or _is_below(path, other) or _is_below(other, path) for other in others)


def _is_below(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


def _grouped(names: List[Tuple[str, bytes]]) -> Iterator[Tuple[str, Tuple[bytes, ...]]]:
    """Names of one kind together, a few hundred at a time."""
    waiting: List[bytes] = []
    last: Optional[str] = None
    for kind, path in sorted(names, key=lambda one: one[0]):
        if waiting and (kind != last or len(waiting) == _NAMES):
            yield last or "", tuple(waiting)
            waiting = []
        last = kind
        waiting.append(path)
    if waiting:
        yield last or "", tuple(waiting)
