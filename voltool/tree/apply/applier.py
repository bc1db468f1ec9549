"""Applies one complete dump stream: skeleton, data, directories, check, publish; see the package for who does what.

The coordinator does little for each file (hash its records, hand out tasks); workers decompress, verify and write. It
promises nothing before it is durable: every few seconds everything is synced and the record in staging says how far it
came. Part of what is shipped to servers.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import time
from typing import Deque, List, Optional, Tuple

from voltool.dumpfile import format as fmt
from voltool.dumpfile.format import StateHasher
from voltool.dumpfile.frames import Frame, FrameDecoder, decode_records
from voltool.errors import IntegrityError, VoltoolError
from voltool.events import Notice, PhaseEnded, PhaseStarted, Progressed, Reporter
from voltool.frozen import dataclass
from voltool.model import FileProblem, Problem
from voltool.showing import shown
from voltool.tree.apply.assemble import DirectorySpool
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.batches import Worker, data_task, decode_result, directory_task, special_task
from voltool.tree.apply.checkpoint import Checkpoint
from voltool.tree.apply.content import ContentReader, Task
from voltool.tree.apply.files import translate
from voltool.tree.apply.finish import Finisher
from voltool.tree.apply.framespool import FrameSpool
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.records import FinalRecords, is_omitted
from voltool.tree.apply.skeleton import Skeleton
from voltool.tree.apply.staging import Phase, Progress, Staging, StagingKey
from voltool.tree.pool import OrderedPool

#: How often what has arrived is made durable, and events are sent (seconds).
SYNC_SECONDS = 5.0
REPORT_SECONDS = 0.25
PHASE = "restore"
#: What goes to a worker in shared memory: a chunk that does not shrink, with its extents.
_ROOM = fmt.CHUNK_SIZE + (64 << 10)
_KEPT = b"content"
_KEPT_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class ApplySettings:
    """How to apply. ``workers`` 0: in this process; ``subject`` names the volume in events, ``total_bytes`` is theirs too."""

    key: StagingKey
    numeric_owner: bool = False
    workers: int = 2
    subject: str = ""
    total_bytes: int = 0


@dataclass(frozen=True)
class Applied:
    """What was published."""

    entries: int
    bytes: int
    problems: Tuple[FileProblem, ...]


class Applier:
    """`feed` it the stream, then `finish`; always `close` it. Staging stays until the tree is published.

    Every method raises VoltoolError.
    """

    def __init__(self, staging: Staging, settings: ApplySettings, reporter: Reporter) -> None:
        self._staging = staging
        self._settings = settings
        self._reporter = reporter
        self._progress = staging.progress
        self._decoder = FrameDecoder()
        self._losses = Losses()
        self._owners = Owners(numeric=settings.numeric_owner)
        self._attributes = Attributes(self._owners, self._losses)
        self._hasher = StateHasher()
        self._skeleton = Skeleton(staging.path)
        self._directories = DirectorySpool(staging.path)
        self._kept_fd = os.open(os.path.join(staging.path, _KEPT), _KEPT_FLAGS, 0o600)
        self._kept = FrameSpool(self._kept_fd, self._progress.content_bytes)
        self._finals = FinalRecords(self._skeleton, self._hasher, self._directories, self._losses, self._make_empty)
        self._pool: Optional[OrderedPool] = None
        self._content: Optional[ContentReader] = None
        self._in_flight: Deque[Tuple[Task, int]] = collections.deque()
        self._files, self._bytes = self._progress.files, self._progress.data_bytes
        self._done = (self._progress.resume_after, self._progress.content_bytes)
        self._checkpoint = Checkpoint(staging)
        self._synced_at = self._reported_at = time.monotonic()
        self._finished = False
        self._umask = os.umask(0)  # modes are set as they are dumped

    @property
    def resume_after(self) -> int:
        """The highest object number whose data is safe here: the stream may leave it out."""
        return self._progress.resume_after

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the stream."""
        try:
            for frame in self._decoder.feed(data):
                self._frame(frame)
        except OSError as error:
            raise translate(error, "to the staging directory") from error

    def finish(self) -> Applied:
        """The stream is complete: check it as a whole, assemble, publish."""
        progress = self._complete()
        Finisher(self._staging, self._attributes, self._losses).run(self._directories, self._finals.sealed, progress)
        return self._applied()

    def _complete(self) -> Progress:
        """Everything has come and was written: check it as a whole."""
        trailer = self._decoder.finish()
        self._end_checkpoint()
        try:
            self._begin_content().finish()
            self._finals.finish()
            self._drain()
        except OSError as error:
            raise translate(error, "to the staging directory") from error
        self._check_totals(trailer)
        self._finished = True
        return dataclasses.replace(
            self._progress,
            resume_after=self._skeleton.last_object,
            content_bytes=self._kept.length,
            files=self._files,
            data_bytes=self._bytes,
        )

    def _applied(self) -> Applied:
        self._report_losses()
        self._reporter.report(Progressed(self._settings.subject, PHASE, self._bytes, self._files))
        self._reporter.report(PhaseEnded(self._settings.subject, PHASE))
        return Applied(self._skeleton.entry_count, self._bytes, self._problems())

    def close(self) -> None:
        """End the workers, free temporary files, remember how far it came; idempotent. Staging stays."""
        if self._pool is not None:
            with contextlib.suppress(VoltoolError, OSError):
                self._end_checkpoint()  # in any case: it uses staging's descriptor
                if not self._finished:
                    self._begin_checkpoint()
                    self._end_checkpoint()
            self._pool.close()
            self._pool = None
        if self._content is not None:
            self._content.close()
        self._skeleton.close()
        self._directories.close()
        if self._kept_fd >= 0:
            os.close(self._kept_fd)
            self._kept_fd = -1
            os.umask(self._umask)

    # ------------------------------------------------------------------------------------------------------- frames

    def _frame(self, frame: Frame) -> None:
        kind = frame.header.type
        if kind == fmt.HEADER:
            self._check_header()
        elif kind == fmt.OWNERS:
            self._owners.learn(decode_records(frame))
        elif kind == fmt.OBJECTS:
            self._skeleton.add_objects(frame)
        elif kind == fmt.ENTRIES:
            for record in self._skeleton.add_entries(frame):
                self._hasher.add_entry(record)
        elif kind == fmt.DATA:
            self._begin_content().data(frame)
        elif kind == fmt.CHUNKS:
            self._begin_content().chunks(frame)
        elif kind == fmt.CONTENT:
            self._content_frame(self._begin_content(), frame)

    def _check_header(self) -> None:
        header = self._decoder.header
        assert header is not None
        if header.level != 0 or header.base_state_id is not None:
            raise fmt.damaged("it is not complete by itself")
        if header.volume_uuid != self._settings.key.volume_uuid:
            raise IntegrityError("the dump is of another volume", why=f"it is of {header.volume_name!r}")

    def _content_frame(self, content: ContentReader, frame: Frame) -> None:
        records = decode_records(frame)
        skip = self._progress.resume_after
        fresh = [record for record in records if int.from_bytes(record[:8], "big") > skip]
        if not fresh:
            content.discard(skip)
            return
        self._finals.overlay(fresh)
        if len(fresh) == len(records):
            self._kept.append(frame)
        else:
            self._kept.append_records(fresh)
        complete = []
        for record in fresh:
            if is_omitted(record):
                content.omit(record)
            else:
                complete.append(record)
        content.content(complete)
        self._between_batches()

    def _begin_content(self) -> ContentReader:
        """The skeleton is complete: build it, start the workers."""
        if self._content is not None:
            return self._content
        worker = Worker(
            self._staging.descriptor,
            self._skeleton.names,
            self._attributes,
            self._losses,
            again=not self._staging.fresh,
        )
        self._pool = OrderedPool(worker.work, self._settings.workers, room=_ROOM)
        fresh = self._progress.phase is Phase.DATA
        self._skeleton.build(self._make_directories if fresh else _ignore)
        self._drain()
        if fresh:
            for objects in self._skeleton.specials():
                self._submit(Task(special_task(objects)))
            self._drain()
        self._content = ContentReader(
            self._skeleton.names,
            worker.maker,
            self._losses,
            self._submit,
            self._drain,
            self._finals.pending,
            self._progress.resume_after,
        )
        for records in self._kept.batches():
            self._finals.overlay(records)
        self._reporter.report(
            PhaseStarted(self._settings.subject, PHASE, self._settings.total_bytes, self._skeleton.file_count)
        )
        return self._content

    def _make_directories(self, records: List[bytes]) -> None:
        self._submit(Task(directory_task(records)))

    def _make_empty(self, record: bytes) -> None:
        number = int.from_bytes(record[:8], "big")
        if number > self._progress.resume_after:
            span = self._skeleton.names.span(number, number)
            self._submit(Task(data_task(span, [], [], [record], 0)))

    # -------------------------------------------------------------------------------------------------- the workers

    def _submit(self, task: Task) -> None:
        assert self._pool is not None
        while not self._pool.has_room:
            self._collect(wait=True)
        self._in_flight.append((task._replace(data=b"", given=b""), self._kept.length))
        self._pool.submit(task.data, task.given)
        self._collect(wait=False)

    def _collect(self, *, wait: bool) -> None:
        assert self._pool is not None
        for raw in self._pool.results(wait=wait):
            result = decode_result(raw)
            task, kept = self._in_flight.popleft()
            self._files += result.files
            self._bytes += result.size
            self._losses.merge(result.losses)
            if task.last:
                self._done = (task.last, kept)
            if task.stream and self._content is not None:
                self._content.written(task.stream, result.size, result.hashed)
                if not result.held:
                    self._content.failed_check(task.stream)

    def _drain(self) -> None:
        while self._in_flight:
            self._collect(wait=True)

    def _between_batches(self) -> None:
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            self._reporter.report(Progressed(self._settings.subject, PHASE, self._bytes, self._files))
        if self._checkpoint.running:
            self._end_checkpoint(wait=False)
            self._synced_at = now  # a disk that is slow to sync is not asked without a pause
        elif now - self._synced_at >= SYNC_SECONDS:
            self._begin_checkpoint()

    def _begin_checkpoint(self) -> None:
        """Begin to make durable what is complete."""
        if self._progress.phase is not Phase.DATA or self._done[0] <= self._progress.resume_after:
            return
        resume_after, content_bytes = self._done
        self._checkpoint.begin(
            dataclasses.replace(
                self._progress,
                resume_after=resume_after,
                content_bytes=content_bytes,
                files=self._files,
                data_bytes=self._bytes,
            )
        )

    def _end_checkpoint(self, *, wait: bool = True) -> None:
        """Say durably what is durable now."""
        progress = self._checkpoint.collect(wait=wait)
        if progress is not None:
            self._promise(progress)

    def _promise(self, progress: Progress) -> None:
        self._staging.save(progress)

    # ------------------------------------------------------------------------------------------------------- the end

    def _check_totals(self, trailer: fmt.Trailer) -> None:
        state = self._hasher.state_id()
        if trailer.state_id.hex() != state:
            raise fmt.damaged("its state id does not match what it holds")
        if (trailer.objects, trailer.entries) != (self._hasher.objects, self._hasher.entries):
            raise fmt.damaged("its trailer does not count what it holds")
        if not self._settings.key.selection and self._settings.key.state_id != state:
            raise IntegrityError("the dump holds another state than the one asked for")

    def _problems(self) -> Tuple[FileProblem, ...]:
        path_of = self._skeleton.path_of
        named = [(Problem.UNREADABLE, lost.number, lost.why) for lost in self._losses.objects]
        named += [
            (Problem.UNREADABLE, number, "it could not be read when it was dumped: this is its last good content")
            for number in self._finals.old
        ]
        named += [
            (Problem.UNSTABLE, number, "it was being written while it was dumped") for number in self._finals.unsettled
        ]
        return tuple(FileProblem(problem, path_of(number), why) for problem, number, why in named)

    def _report_losses(self) -> None:
        for what, (count, first) in sorted(self._losses.attributes.items()):
            path = shown(self._skeleton.path_of(first)) or "/"
            others = f" and {count - 1} more" if count > 1 else ""
            self._reporter.report(Notice("warning", f"not restored: {what} of {path}{others}"))
        if self._losses.unnamed:
            self._reporter.report(
                Notice("warning", f"{self._losses.unnamed} more files with problems are not named one by one")
            )


def _ignore(_records: List[bytes]) -> None:
    """Made by an earlier run already."""
