"""Long-running processes on a host, seen from outside: start, look, stop, forget. Inside one: `agent.daemon_life`.

All of one lies in ``<state>/daemons/`` under ``<kind>-<id>``: ``.json`` what it shall do (written by whoever wants it; with it
the daemon exists), ``.pyz`` the agent that it runs (a copy of its own: those in ``agent/`` are tidied up by age), ``.run`` which
process it is and what it says of itself, ``.lock`` held by that process for its whole life. ``.run`` names a process only
together with the boot and the process's start time, so that no other one is ever taken for it. Ships to servers.
Sources: proc(5) (stat: field 22), pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Iterator, List, Optional

import voltool
from voltool import durable
from voltool.agent.supervisor import Supervisor, find_supervisor
from voltool.errors import AgentError, BusyError, HostError
from voltool.machine import first_line
from voltool.showing import shown

#: Seconds that a daemon may take until it is ready, and to end by itself.
_START = 60.0
_STOP = 15.0
_POLL = 0.02
_SUFFIX = b".json"


@dataclass(frozen=True)
class Running:
    """Which process a daemon is, and what it says: ``ready`` when it does its work, ``fault`` why it gave up, ``facts`` of its
    kind. ``started`` is in clock ticks since the boot ``boot_id``."""

    pid: int
    started: int
    boot_id: str
    ready: bool = False
    fault: str = ""
    facts: Dict[str, str] = field(default_factory=dict)


class Daemon:
    """The daemon ``identity`` of a ``kind`` on the host whose state directory is ``directory``, existing or not. What starts and
    stops it is called inside `controlled`."""

    def __init__(self, directory: bytes, kind: str, identity: str, supervisor: Optional[Supervisor] = None) -> None:
        if not identity.replace("-", "").isalnum() or not identity.isascii():
            raise AgentError("an id has a form that no voltool gives it", why=shown(identity.encode(errors="replace")))
        self.kind = kind
        self.identity = identity
        self._state = directory
        self._base = os.path.join(directory, b"daemons", f"{kind}-{identity}".encode())
        self._supervisor = supervisor or find_supervisor()

    @property
    def unit(self) -> str:
        """Its name among all processes of the host."""
        return f"voltool-{self.kind}-{self.identity}"

    def path(self, suffix: bytes) -> bytes:
        """One of its files."""
        return self._base + suffix

    def wishes(self) -> Optional[Dict[str, Any]]:
        """What it shall do; None where there is no such daemon."""
        return _read(self._base + _SUFFIX)

    def save(self, wishes: Dict[str, Any]) -> None:
        """Write down what it shall do, durably. It may hold keys: only its owner reads it."""
        durable.make_directory(os.path.dirname(self._base))
        durable.write_file(self._base + _SUFFIX, json.dumps(wishes).encode() + b"\n")

    # --------------------------------------------------------------------------------------------------- from outside

    @contextlib.contextmanager
    def controlled(self) -> Iterator[None]:
        """Only one at a time starts and stops the daemons of this host. BusyError where somebody takes too long."""
        durable.make_directory(os.path.dirname(self._base))
        descriptor = os.open(os.path.dirname(self._base), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _await_lock(descriptor, _START + _STOP)
            yield
        finally:
            os.close(descriptor)

    def is_current(self) -> bool:
        """Whether it runs the same voltool as we do."""
        try:
            with open(self._base + b".pyz", "rb") as file, open(_own_program(), "rb") as own:
                return file.read() == own.read()
        except OSError:
            return False

    def running(self) -> Optional[Running]:
        """The process, if it lives."""
        found = self.last()
        if found is None or found.boot_id != _boot_id() or started_at(found.pid) != found.started:
            return None
        return found

    def last(self) -> Optional[Running]:
        """What it said last, living or not."""
        content = _read(self._base + b".run")
        try:
            return Running(**content) if content is not None else None
        except TypeError:
            return None

    def start(self, description: str) -> Running:
        """Start it anew with what is written down now; the process, when it is ready. Whatever ran before is ended first.
        HostError with its own words where it does not come up: then it is not tried again."""
        self.stop()
        durable.remove_file(self._base + b".run")
        program = self._copy_program()
        command = [sys.executable or "/usr/bin/python3", "-I", os.fsdecode(program), self.kind, self.identity]
        self._supervisor.start(self.unit, description, command, {"VOLTOOL_STATE_DIR": os.fsdecode(self._state)})
        return self._await_ready()

    def stop(self) -> None:
        """End it, and see that nobody starts it again. Idempotent. HostError where it cannot be ended."""
        found = self.running()
        self._supervisor.forget(self.unit)
        if found is not None:
            end_process(found)
            if self.running() is not None:
                raise HostError(
                    "a process of voltool cannot be ended", where=f"pid {found.pid}", why="it does not even end when killed",
                    remedy="see what it waits for (cat /proc/PID/stack); a reboot ends it",
                )  # fmt: skip

    def remove(self) -> None:
        """Stop it, and take away all that is kept of it. Idempotent."""
        self.stop()
        self.forget()

    def forget(self) -> None:
        """Take away what is kept of it, its keys first; from inside it too. Idempotent."""
        for suffix in (
            _SUFFIX,
            _SUFFIX + b".new",
            b".run",
            b".run.new",
            b".pyz",
            b".pyz.new",
            b".status",
            b".status.new",
            b".lock",
            b".relay",
            b".sock",
        ):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._base + suffix)
        with contextlib.suppress(OSError):
            durable.fsync_directory(os.path.dirname(self._base))

    def retire(self) -> None:
        """From inside it: its work is over for ever. Idempotent."""
        self.forget()
        self._supervisor.forget(self.unit)

    def _await_ready(self) -> Running:
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            said = self.last()
            if said is not None and said.fault:
                self.stop()
                raise HostError("a process that voltool needs there has ended at once", why=said.fault)
            if said is not None and said.ready and self.running() is not None:
                return said
            if said is not None and not said.ready and self.running() is None and self.last() == said:
                break
            time.sleep(_POLL)
        self.stop()
        raise HostError(
            "a process that voltool needs there does not start", where=self.unit,
            remedy="look at the host's syslog for voltool, and at systemctl status where systemd runs",
        )  # fmt: skip

    def _copy_program(self) -> bytes:
        path = self._base + b".pyz"
        with open(_own_program(), "rb") as file:
            data = file.read()
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if file.read() == data:
                return path
        durable.write_file(path, data)
        return path

    # ---------------------------------------------------------------------------------------------------- from inside

    def hold(self) -> durable.FileLock:
        """The lock of the living process; BusyError where another one is it."""
        return durable.FileLock(self._base + b".lock", what=self.unit, owner=self.unit)

    def tell(self, said: Running) -> None:
        """Say who we are and how it goes."""
        durable.write_file(self._base + b".run", json.dumps(asdict(said)).encode() + b"\n")


def _await_lock(descriptor: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _try_lock(descriptor):
        if time.monotonic() > deadline:
            raise BusyError(
                "somebody else starts or stops processes of voltool on this host",
                remedy="wait until it is done; the lock ends with its owner",
            )
        time.sleep(_POLL)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def this_process() -> Running:
    """The calling process, not ready yet."""
    return Running(os.getpid(), started_at(os.getpid()) or 0, _boot_id())


def list_daemons(directory: bytes) -> List[Daemon]:
    """All daemons of this host, running or not."""
    try:
        names = sorted(os.listdir(os.path.join(directory, b"daemons")))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        kind, dash, identity = name[: -len(_SUFFIX)].decode("ascii", "replace").partition("-")
        if name.endswith(_SUFFIX) and dash:
            with contextlib.suppress(AgentError):
                found.append(Daemon(directory, kind, identity))
    return found


def started_at(pid: int) -> Optional[int]:
    """When a process was started, in clock ticks since the boot; None where there is no such process, or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            after_name = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return None if after_name[0] in (b"Z", b"X") else int(after_name[19])


def end_process(found: Running) -> None:
    """SIGTERM, and SIGKILL if that does not help; exactly that process. Returns when it is gone, or nothing helps."""
    try:
        descriptor = os.pidfd_open(found.pid)
    except (OSError, AttributeError):
        descriptor = None  # gone, or a kernel before 5.3: the start time is looked at just before
    try:
        for number, patience in ((signal.SIGTERM, _STOP), (signal.SIGKILL, _STOP)):
            if started_at(found.pid) != found.started:
                return
            with contextlib.suppress(ProcessLookupError):
                _signal(descriptor, found.pid, number)
            if _is_gone(found, descriptor, patience):
                return
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _signal(descriptor: Optional[int], pid: int, number: int) -> None:
    if descriptor is None:
        os.kill(pid, number)
    else:
        signal.pidfd_send_signal(descriptor, number)


def _is_gone(found: Running, descriptor: Optional[int], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if started_at(found.pid) != found.started:
            return True
        if descriptor is not None:
            select.select([descriptor], [], [], 0.2)
        else:
            time.sleep(_POLL)
    return False


def _own_program() -> bytes:
    """The zip file that this agent runs from."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(voltool.__file__)))
    if not os.path.isfile(root):
        raise AgentError("this agent does not run from the file that is shipped", why=root)
    return os.fsencode(root)


def _boot_id() -> str:
    return first_line("/proc/sys/kernel/random/boot_id")


def _read(path: bytes) -> Optional[Dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
