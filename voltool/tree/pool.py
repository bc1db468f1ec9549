"""Worker processes that return results in the order of the tasks, with bounded memory. Ships to servers.

Forked, so that workers share descriptors and loaded libraries with their parent; they die with it (PR_SET_PDEATHSIG).
Tasks and results are bytes with a length before them on pipes; what is large goes through memory that all share, since a pipe
and the copies around it cost more than the work. With ``workers=0`` the work is done in this process.
Threads gain less: most of the time goes to small system calls that hold the interpreter lock.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import fcntl
import mmap
import os
import pickle
import select
import signal
import struct
from types import TracebackType
from typing import Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple, Type, Union

from voltool.errors import AgentError, VoltoolError, error_from_fields
from voltool.leases import ignore_lease_breaks

_HEAD = struct.Struct(">IB")
#: Of a task: its length, its place in the shared memory (-1: none), how much was put there for it.
_TASK_HEAD = struct.Struct(">IiI")
_RESULT, _ERROR = 0, 1
_F_SETPIPE_SZ = 1031
_PR_SET_PDEATHSIG = 1
#: Tasks a worker has at hand beside the one it works on.
_AHEAD = 2


_NOTHING = memoryview(b"")


class Shared(NamedTuple):
    """Memory that one task has, in the parent and in the worker. ``room``: all of it, for what the worker returns; empty where
    there is none. ``given``: what came with the task."""

    room: memoryview
    given: memoryview


#: Carries one task out, in a worker.
Work = Callable[[bytes, Shared], bytes]


class OrderedPool:
    """``submit`` tasks; ``results`` yields what is ready in order; ``drain`` waits for all. Not thread-safe.

    With ``room`` each task has so many bytes of memory that the worker shares, as long as there is any left over; what a worker
    has put there can be read in ``shared`` until the next result is taken. An exception in ``work`` is raised by ``results`` or
    ``drain`` in the parent: a VoltoolError as itself, any other as AgentError. Use as a context manager: leaving it ends the
    workers.
    """

    def __init__(self, work: Work, workers: int, *, room: int = 0) -> None:
        self._work = work
        self._workers: List[_Worker] = []
        self._next_task = 0
        self._next_result = 0
        self._ready: Dict[int, bytes] = {}
        self._arena = _Arena(room, workers * (_AHEAD + 1) + 1 if room else 0)
        self._slots: Dict[int, int] = {}
        self.shared = _NOTHING
        for _ in range(workers):
            self._workers.append(_Worker(work, self._arena, self._workers))

    @property
    def in_flight(self) -> int:
        """Tasks whose results were not yielded yet."""
        return self._next_task - self._next_result

    def submit(self, task: bytes, given: Union[bytes, memoryview] = b"") -> None:
        """Give one task, and what is ``given`` with it, to the least busy worker. Takes results meanwhile where the pipes are
        full: a worker that waits for its result to be read reads no task."""
        number = self._next_task
        self._next_task += 1
        if not self._workers:
            self._ready[number] = self._work(task, Shared(_NOTHING, memoryview(given)))
            return
        worker = min(self._workers, key=lambda candidate: len(candidate.numbers))
        worker.numbers.append(number)
        slot = self._arena.take(given)
        self._slots[number] = slot
        head = _TASK_HEAD.pack(len(task), slot, len(given))
        for part in (head + task, given) if slot < 0 and given else (head + task,):
            view = memoryview(part)
            while view:
                written = worker.write(view)
                view = view[written:]
                if not written:
                    self._collect(block=True, room_for=worker)

    @property
    def has_room(self) -> bool:
        """Whether another task should be submitted before results are taken."""
        return self.in_flight < max(1, len(self._workers) * (_AHEAD + 1))

    def results(self, *, wait: bool = False) -> Iterator[bytes]:
        """Results that are ready, in order; with ``wait`` at least one, unless none is due."""
        wait = wait or not self.has_room
        while True:
            while self._next_result in self._ready:
                wait = False
                result = self._ready.pop(self._next_result)
                slot = self._slots.pop(self._next_result, -1)
                self._next_result += 1
                self.shared = self._arena.room(slot)
                try:
                    yield result
                finally:
                    self.shared = _NOTHING
                    self._arena.free(slot)
            if self.in_flight == 0 or not self._collect(block=wait):
                return

    def drain(self) -> Iterator[bytes]:
        """All results that are still due, in order."""
        while self.in_flight:
            yield from self.results(wait=True)

    def _collect(self, *, block: bool, room_for: Optional[_Worker] = None) -> bool:
        """Take results; with ``block`` wait for one, or for ``room_for`` to take more of its task."""
        waiting = {worker.results: worker for worker in self._workers if worker.numbers}
        room = [] if room_for is None else [room_for.tasks]
        readable, _, _ = select.select(list(waiting), room, [], None if block else 0)
        for descriptor in readable:
            worker = waiting[descriptor]
            self._ready[worker.numbers[0]] = worker.receive()
            worker.numbers.popleft()
        return bool(readable)

    def close(self) -> None:
        """End the workers; idempotent."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def __enter__(self) -> OrderedPool:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


class _Worker:
    """One forked process with a pipe each way."""

    def __init__(self, work: Work, arena: _Arena, siblings: List[_Worker]) -> None:
        task_read, self.tasks = os.pipe()
        self.results, result_write = os.pipe()
        self.numbers: Deque[int] = collections.deque()
        for descriptor in (task_read, result_write):
            _widen(descriptor)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self.tasks)
                os.close(self.results)
                for sibling in siblings:
                    sibling.forget()
                _serve(work, arena, task_read, result_write, parent)
            finally:
                os._exit(0)
        os.close(task_read)
        os.close(result_write)
        os.set_blocking(self.tasks, False)

    def forget(self) -> None:
        """In a younger sibling: close what only the parent should hold."""
        os.close(self.tasks)
        os.close(self.results)

    def write(self, part: memoryview) -> int:
        """Give it some more of a task; how much it took, 0 when its pipe is full."""
        try:
            return os.write(self.tasks, part)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise AgentError("a worker process has died", why="it was killed, or memory is short") from None

    def receive(self) -> bytes:
        """Its next result; raises what the work raised."""
        kind, payload = _read_message(self.results)
        if kind == _RESULT:
            return payload
        error: BaseException = pickle.loads(payload)  # noqa: S301 - see the import
        raise error

    def close(self) -> None:
        """Kill and reap it."""
        os.close(self.tasks)
        os.close(self.results)
        try:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


class _Arena:
    """Memory that is shared with the workers forked after it, in ``count`` slots of ``size`` bytes. The parent says who has
    which."""

    def __init__(self, size: int, count: int) -> None:
        self._size = size
        self._free = list(range(count))
        self._memory = memoryview(mmap.mmap(-1, size * count) if count else b"")

    def take(self, given: Union[bytes, memoryview]) -> int:
        """A slot with ``given`` in it; -1 where none is free or it does not fit."""
        if not self._free or len(given) > self._size:
            return -1
        slot = self._free.pop()
        self.room(slot)[: len(given)] = given
        return slot

    def room(self, slot: int) -> memoryview:
        """The bytes of a slot; of -1 none."""
        return self._memory[slot * self._size : (slot + 1) * self._size] if slot >= 0 else _NOTHING

    def free(self, slot: int) -> None:
        """Nobody reads it any more."""
        if slot >= 0:
            self._free.append(slot)


def _serve(work: Work, arena: _Arena, tasks: int, results: int, parent: int) -> None:
    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(name, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ignore_lease_breaks()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    while True:
        try:
            task, shared = _read_task(tasks, arena)
        except AgentError:
            return
        try:
            result, kind = work(task, shared), _RESULT
        except VoltoolError as error:
            result, kind = _pickled(error), _ERROR
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            result, kind = _pickled(AgentError("a worker failed", why=f"{type(error).__name__}: {error}")), _ERROR
        _write(results, _HEAD.pack(len(result), kind), result)


def _pickled(error: VoltoolError) -> bytes:
    return pickle.dumps(_Rebuild(error.kind, error.what, error.where, error.why, error.remedy))


class _Rebuild:
    """An error that survives pickling (ours have keyword-only arguments)."""

    def __init__(self, *fields: str) -> None:
        self._fields = fields

    def __reduce__(self) -> tuple[Callable[..., VoltoolError], tuple[str, ...]]:
        return error_from_fields, self._fields


def _widen(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, 1 << 20)


def _write(descriptor: int, head: bytes, payload: bytes) -> None:
    if len(payload) < 65536:
        payload = head + payload
    else:
        os.write(descriptor, head)
    view = memoryview(payload)
    while view:
        view = view[os.write(descriptor, view) :]


def _read_task(descriptor: int, arena: _Arena) -> Tuple[bytes, Shared]:
    length, slot, given = _TASK_HEAD.unpack(_read_exactly(descriptor, _TASK_HEAD.size))
    task = _read_exactly(descriptor, length)
    room = arena.room(slot)
    return task, Shared(room, room[:given] if slot >= 0 else memoryview(_read_exactly(descriptor, given)))


def _read_message(descriptor: int) -> tuple[int, bytes]:
    head = _read_exactly(descriptor, _HEAD.size)
    length, kind = _HEAD.unpack(head)
    return kind, _read_exactly(descriptor, length)


def _read_exactly(descriptor: int, length: int) -> bytes:
    if not length:
        return b""
    first = os.read(descriptor, length)
    if len(first) == length:
        return first
    if not first:
        raise AgentError("a worker process has died", why="it was killed, or memory is short")
    parts = [first]
    missing = length - len(first)
    while missing:
        part = os.read(descriptor, min(missing, 1 << 20))
        if not part:
            raise AgentError("a worker process has died", why="it was killed, or memory is short")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
