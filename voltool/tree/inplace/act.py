"""A plan is carried out: everything it needs is in staging, whole and checked. Ships to servers.

The order: what stands in the way goes, directories are made, objects get their names one by one (each by one rename, so that
nothing half-written ever stands under a name), then what the dump does not have goes, then directories get their attributes,
children first. Cut off anywhere, the next run compares anew and goes on: nothing of the dump's is taken away on the way.
"""

from __future__ import annotations

import contextlib
import os
import stat
from functools import partial
from typing import Callable, List, Optional, Set

from voltool import inodes
from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import ObjectRecord
from voltool.model import FileProblem, Problem
from voltool.spool import SortedSpool
from voltool.tree.apply.attributes import EARLY_DIRECTORY_FLAGS, SEALS, Attributes
from voltool.tree.apply.losses import MAX_NAMED, Losses
from voltool.tree.apply.staging import Staging, make_private
from voltool.tree.inplace.compare import Comparer
from voltool.tree.inplace.ground import Ground
from voltool.tree.inplace.plan import (
    PREPARE,
    REPLACE,
    Action,
    DirectoryStep,
    Plan,
    actions,
    directory_steps,
    final_directories,
)
from voltool.tree.inplace.staged import staged_path
from voltool.tree.inplace.survey import doomed
from voltool.tree.inplace.touch import NotTouched, Toucher, not_touched
from voltool.tree.state import BaseState

_CANNOT_HOLD = "the target could not hold it when it was staged, or it was changed meanwhile"


class Actor:
    """`run` it; then `finish_root` when staging is gone. ``problems``: what was left as it is, and why; ``paths`` of that."""

    def __init__(
        self,
        ground: Ground,
        staging: Staging,
        state: BaseState,
        attributes: Attributes,
        comparer: Comparer,
        losses: Losses,
        tick: Callable[[int], None] = lambda _objects: None,
    ) -> None:
        self._ground = ground
        self._staging = staging
        self._state = state
        self._attributes = attributes
        self._comparer = comparer
        self._losses = losses
        self._touch = Toucher(ground, staging.descriptor)
        self._tick = tick
        self._root: Optional[ObjectRecord] = None
        self.problems: List[FileProblem] = []
        self.paths: Set[bytes] = set()

    def run(self, plan: Plan) -> None:
        """Carry it out. Raises VoltoolError, OSError; the next run goes on."""
        make_private(self._staging.descriptor, b"links")
        self._delete(plan, plan.survey.ways)
        self._ground.forget()
        for step in directory_steps(plan):
            self._guard(step.path, partial(self._step, step))
        for done, (action, record) in enumerate(actions(plan, self._state)):
            self._act(action, record)
            self._tick(done + 1)
        self._staging.sync()
        self._delete(plan, plan.survey.extras)
        self._ground.forget()
        for path, record in final_directories(plan):
            self._guard(path, partial(self._final, path, record))
        self._staging.sync()

    def finish_root(self) -> None:
        """What staging, where it lay in the root, has changed there, and the root's seals. Raises OSError."""
        if self._root is not None and not self._comparer.directory(self._ground.root, self._root):
            self._attributes.times(self._ground.root, self._root)
            self._attributes.seal(self._ground.root, self._root)
            os.fsync(self._ground.root)

    def _guard(self, path: bytes, act: Callable[[], None]) -> None:
        try:
            act()
        except NotTouched as left:
            self._leave(path, str(left))
        except OSError as error:
            failure = not_touched(error)
            if not isinstance(failure, NotTouched):
                raise failure from error
            self._leave(path, str(failure))

    def _leave(self, path: bytes, why: str) -> None:
        if len(self.problems) < MAX_NAMED:
            self.problems.append(FileProblem(Problem.LEFT, path, why))
            self.paths.add(path)
        else:
            self._losses.unnamed += 1

    def _delete(self, plan: Plan, spool: SortedSpool) -> None:
        for one in doomed(spool):
            if one.path not in plan.survey.protected:
                self._guard(one.path, partial(self._touch.remove, one.path, one.seen))

    # ----------------------------------------------------------------------------------------------------- directories

    def _step(self, step: DirectoryStep) -> None:
        if step.kind != PREPARE:
            self._touch.make_directory(step.path, step.seen if step.kind == REPLACE else None)
        descriptor = self._ground.directory(step.path)
        if step.kind != PREPARE:
            self._attributes.early(descriptor, step.record, EARLY_DIRECTORY_FLAGS)
        self._set_project(descriptor, step.record)

    def _set_project(self, descriptor: int, record: ObjectRecord) -> None:
        """What comes into a directory that hands its project down must be of the same: so before anything comes."""
        try:
            inodes.set_flags(descriptor, record.flags, fmt.FLAG_PROJINHERIT)
            inodes.set_project(descriptor, record.project)
        except OSError:
            self._losses.attribute("project id", record.number)

    def _final(self, path: bytes, record: ObjectRecord) -> None:
        descriptor = self._ground.directory(path)
        if not path:
            self._root = record
        if not self._comparer.directory(descriptor, record):
            self._set_attributes(descriptor, record, seal=bool(path))

    def _set_attributes(self, descriptor: int, record: ObjectRecord, *, seal: bool = True) -> None:
        """All attributes of what stands, those included that it must lose."""
        inodes.set_flags(descriptor, 0, SEALS)
        self._attributes.strip(descriptor, record)
        if inodes.get_flags(descriptor)[1] != record.project:
            self._set_project(descriptor, record)
        self._attributes.finish(descriptor, record, seal=seal)

    # --------------------------------------------------------------------------------------------------------- objects

    def _act(self, action: Action, record: ObjectRecord) -> None:
        if action.fresh:
            self._place(action, record)
        else:
            self._guard(action.source, partial(self._keep, action, record))

    def _place(self, action: Action, record: ObjectRecord) -> None:
        """A staged object gets all its names; the last one is staging's own."""
        staging, staged = self._staging.descriptor, staged_path(action.number)
        if not _is_there(staging, staged):
            for _seen, path in action.names:
                self._leave(path, _CANNOT_HOLD)
            return

        def link(target: bytes) -> None:
            os.link(staged, target, src_dir_fd=staging, dst_dir_fd=staging, follow_symlinks=False)

        sealed = -1
        if record.flags & SEALS and stat.S_ISREG(record.mode):
            sealed = os.open(staged, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
        try:
            for seen, path in action.names[:-1]:
                self._guard(path, partial(self._touch.link_in, link, path, seen))
            seen, path = action.names[-1]
            self._guard(path, partial(self._touch.move_in, staged, path, seen))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged, dir_fd=staging)
            if sealed >= 0:
                self._attributes.seal(sealed, record)
        finally:
            if sealed >= 0:
                os.close(sealed)

    def _keep(self, action: Action, record: ObjectRecord) -> None:
        """What stands is the object: it gets the names that others have, and its attributes."""
        assert action.seen is not None
        descriptor = self._open(action, record)
        try:
            status = os.fstat(descriptor)
            if not action.seen.is_still(status) or (action.fix and status.st_nlink != action.seen.links):
                raise NotTouched("it was changed after it had been compared")
            freed = False
            if stat.S_ISREG(record.mode) and inodes.get_flags(descriptor)[0] & SEALS:
                inodes.set_flags(descriptor, 0, SEALS)
                freed = True

            def link(target: bytes) -> None:
                source = b"/proc/self/fd/%d" % descriptor
                os.link(source, target, dst_dir_fd=self._staging.descriptor, follow_symlinks=True)

            for seen, path in action.names:
                self._guard(path, partial(self._touch.link_in, link, path, seen))
            if action.fix:
                self._set_attributes(descriptor, record)
            elif freed:
                self._attributes.seal(descriptor, record)
        finally:
            os.close(descriptor)

    def _open(self, action: Action, record: ObjectRecord) -> int:
        if stat.S_ISREG(record.mode):
            return self._ground.open(action.source)
        directory, name = self._ground.parent(action.source)
        return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def _is_there(directory: int, path: bytes) -> bool:
    try:
        os.stat(path, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
