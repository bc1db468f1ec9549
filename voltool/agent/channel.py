"""The agent's end of the connection: stdin and stdout of a process that a login shell, sudo or the CLI has started.

Implements `wire.conversation.Conversation`. What is printed by mistake goes to stderr: descriptor 1 is pointed there.
Part of what is shipped to servers. Sources: pipe(7), fcntl(2) F_SETPIPE_SZ, poll(2).
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Deque, List, Optional, Tuple, Type

from voltool.agent.path.held import HeldPath
from voltool.errors import AgentError
from voltool.events import Event, Progressed
from voltool.wire import framing, messages
from voltool.wire.conversation import Buffer
from voltool.wire.pulse import Pulse

_F_SETPIPE_SZ = 1031
_PIPE_SIZE = 1 << 20
_READ_SIZE = 256 << 10
#: Progress events of one phase closer to each other than this (seconds) are not sent: nobody sees them.
_PROGRESS_INTERVAL = 0.1
_POLLRDHUP = 0x2000
#: What the watching thread is told.
_STOP, _LISTEN = b"x", b"l"


class ConnectionGone(AgentError):  # noqa: N818 - an event in the life of a connection
    """The CLI is not there any more; the agent cleans up and ends."""


class HungUp(BaseException):
    """Raised in the main thread, wherever it is, when the connection ends while a handler works.

    Like KeyboardInterrupt not an Exception: no handler takes it for an error of its own.
    """


class StdioChannel:
    """See `Conversation`. Takes over the descriptors ``source`` and ``sink``; each is used by one thread, but for `beat`.
    ``path``: the direct path to another agent, which is there as long as this connection."""

    def __init__(self, source: int, sink: int) -> None:
        self.source = source
        self.path = HeldPath()
        self._sink = sink
        self._decoder = framing.FrameDecoder(expect_sync=False)
        self._frames: Deque[framing.WireFrame] = collections.deque()
        self._held_back: Optional[Progressed] = None
        self._writing = threading.Lock()
        self._received = 0
        self._last_progress = 0.0
        for descriptor in (source, sink):
            _widen(descriptor)

    def greet(self) -> None:
        """Send the marker that ends the noise of login shells."""
        self._write([memoryview(framing.SYNC + b"\n")])

    def send(self, message: messages.Message) -> None:
        """See `Conversation`."""
        held_back, self._held_back = self._held_back, None
        if held_back is not None and not isinstance(message, messages.Failure):
            self._send(messages.wrap_event(held_back))
        self._send(message)

    def _send(self, message: messages.Message) -> None:
        payload = messages.encode(message)
        head = framing.encode_frame_head(framing.MESSAGE, len(payload))
        self._write([memoryview(head), memoryview(payload)])

    def send_data(self, data: Buffer) -> None:
        """See `Conversation`."""
        for piece in framing.split_data(data):
            self._write([memoryview(framing.encode_frame_head(framing.DATA, len(piece))), piece])

    def receive(self) -> Any:
        """See `Conversation`. Raises ConnectionGone at the end."""
        while not self._frames:
            try:
                data = os.read(self.source, _READ_SIZE)
            except OSError as error:
                raise ConnectionGone("the connection to the command line broke", why=str(error)) from None
            if not data:
                raise ConnectionGone("the command line has closed the connection")
            self._received += len(data)
            self._frames.extend(self._decoder.feed(data))
        frame = self._frames.popleft()
        return messages.decode(frame.payload) if frame.kind == framing.MESSAGE else frame.payload

    def report(self, event: Event) -> None:
        """See `Conversation`. Progress is thinned out; the last state of a phase is always sent."""
        if isinstance(event, Progressed):
            now = time.monotonic()
            if now - self._last_progress < _PROGRESS_INTERVAL:
                self._held_back = event
                return
            self._last_progress = now
            self._held_back = None
        self.send(messages.wrap_event(event))

    def beat(self) -> None:
        """Say that we live, from any thread; not while something else is being said, or nobody takes it."""
        if not self._writing.acquire(blocking=False):
            return
        try:
            if select.select([], [self._sink], [], 0)[1]:
                with contextlib.suppress(OSError):
                    os.write(self._sink, framing.BEAT_FRAME)
        finally:
            self._writing.release()

    def arrived(self) -> Tuple[int, int]:
        """How many bytes came so far, and how many of them were not read yet."""
        with contextlib.suppress(OSError):
            answer = fcntl.ioctl(self.source, termios.FIONREAD, struct.pack("i", 0))
            unread = int(struct.unpack("i", answer)[0])
            return self._received + unread, unread
        return self._received, 0

    def _write(self, parts: List[memoryview]) -> None:
        try:
            with self._writing:
                while parts:
                    written = os.writev(self._sink, parts)
                    while parts and written >= len(parts[0]):
                        written -= len(parts.pop(0))
                    if parts:
                        parts[0] = parts[0][written:]
        except OSError as error:
            raise ConnectionGone("the connection to the command line broke", why=str(error)) from None


def take_over_stdio() -> StdioChannel:
    """A channel on this process's stdin and stdout, which from now on are /dev/null and stderr."""
    source = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    sink = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return StdioChannel(source, sink)


def _widen(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:
        return  # a socket, or beyond /proc/sys/fs/pipe-max-size: only slower


class HangUpWatch:
    """While the context lasts, the end of the connection interrupts the main thread with `HungUp`, once.

    A handler that reads or writes notices by itself; one that scans for an hour would not; and nobody notices that the network
    is cut, so silence counts as the end once `listen` was called. ``grace`` seconds after the interruption, a process that
    still did not end is ended hard, its children with it.
    """

    _SIGNAL = signal.SIGUSR1

    def __init__(self, descriptor: int, grace: float = 60.0) -> None:
        self._descriptor = descriptor
        self._grace = grace
        self._raised = False
        self._armed = False
        self._main = threading.main_thread().ident
        self._wake_read, self._wake_write = os.pipe()
        self._thread: Optional[threading.Thread] = None
        self._pulse: Optional[Pulse] = None
        self._channel: Optional[StdioChannel] = None

    def start(self) -> None:
        """Begin to watch; HungUp is raised only inside a ``with`` block. SIGTERM, SIGHUP and SIGINT count as a hang-up."""
        for number in (self._SIGNAL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._interrupt)
        self._thread = threading.Thread(target=self._watch, name="voltool-hang-up", daemon=True)
        self._thread.start()

    def listen(self, channel: StdioChannel, pulse: Pulse) -> None:
        """From now on send beats, and take the other side's silence for the end of the connection."""
        self._channel, self._pulse = channel, pulse
        os.write(self._wake_write, _LISTEN)

    def stop(self) -> None:
        """Watch no more."""
        os.write(self._wake_write, _STOP)
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> HangUpWatch:
        self._armed = True
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._armed = False

    def _interrupt(self, number: int, _frame: Optional[FrameType]) -> None:
        if self._raised:
            return  # it is cleaning up
        if self._armed:
            self._raised = True
            raise HungUp
        if number != self._SIGNAL:
            raise SystemExit(128 + number)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, _POLLRDHUP)  # POLLHUP and POLLERR come unasked
        poll.register(self._wake_read, select.POLLIN)
        ended = False
        while not ended:
            ready = dict(poll.poll(self._beat()))
            if self._wake_read in ready and os.read(self._wake_read, 1) == _STOP:
                return
            ended = self._descriptor in ready or self._is_silent()
        self._end()

    def _beat(self) -> Optional[float]:
        """Say that we live; milliseconds until it is to be said again, None: never."""
        if self._channel is None or self._pulse is None:
            return None
        self._channel.beat()
        return self._pulse.interval * 1000

    def _is_silent(self) -> bool:
        if self._channel is None or self._pulse is None:
            return False
        return self._pulse.is_over(time.monotonic(), *self._channel.arrived())

    def _end(self) -> None:
        """Interrupt the main thread until it has ended; then end hard."""
        assert self._main is not None
        # Asked again: between two requests nothing is raised, and the next one must not go on for nobody.
        deadline = time.monotonic() + self._grace
        while time.monotonic() < deadline:
            signal.pthread_kill(self._main, self._SIGNAL)
            if select.select([self._wake_read], [], [], 0.25)[0]:
                return
        end_children()
        os._exit(1)


def end_children() -> None:
    """Kill every process below this one. What is meant to outlive the agent is not below it (it has forked twice)."""
    for pid in _children(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> List[int]:
    found: List[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                direct = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for child in direct:
            found += [*_children(child), child]
    return found
