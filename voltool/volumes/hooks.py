"""Hooks: the user's own programs around a clone, a lock, a publish. Argument lists, never a shell. Ships to servers.

A hook runs on the volume's host, in / and in a session of its own, with VOLTOOL_VOLUME, VOLTOOL_PATH and VOLTOOL_PHASE
in its environment. Its output goes to the host's syslog, and its end into the error when it fails. It is over when the program
has ended, also where it has left a daemon behind that keeps the output.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import syslog
import time
from typing import Dict, Iterator, Optional, Tuple

from voltool.errors import HostError
from voltool.frozen import dataclass
from voltool.model import Hooks
from voltool.showing import shown

_OUTPUT_TAIL = 2000
#: How often a silent hook is looked after, seconds.
_POLL = 0.1


@dataclass(frozen=True)
class Hook:
    """A program with its arguments; ``timeout`` in seconds, after which it and its children are killed."""

    arguments: Tuple[str, ...]
    timeout: int = Hooks.timeout


def hook_of(hooks: Hooks, phase: str) -> Optional[Hook]:
    """The program of ``phase`` (a field of `Hooks`); None where there is none."""
    arguments = getattr(hooks, phase)
    return Hook(tuple(arguments), hooks.timeout) if arguments else None


def run_hook(hook: Optional[Hook], phase: str, volume: str, path: bytes) -> None:
    """Run it and wait; no hook is fine. HostError where it cannot be started, fails or takes too long."""
    if hook is None or not hook.arguments:
        return
    process = _start(hook, phase, _environment(phase, volume, path))
    assert process.stdout is not None
    with process.stdout:
        try:
            ended, output = _wait(process, process.stdout.fileno(), time.monotonic() + hook.timeout)
        except BaseException:
            _kill(process)
            raise
        if not ended:
            _kill(process)
            raise _failed(hook, phase, f"it took longer than {hook.timeout} s", output)
    _log(phase, volume, output)
    if process.returncode != 0:
        raise _failed(hook, phase, f"it ended with status {process.returncode}", output)


@contextlib.contextmanager
def between_hooks(hooks: Hooks, before: str, after: str, volume: str, path: bytes) -> Iterator[None]:
    """Run ``before``, what stands between, and ``after`` in any case, also when ``before`` failed half-way.

    HostError as `run_hook`; of two failures the first is told.
    """
    try:
        run_hook(hook_of(hooks, before), before, volume, path)
        yield
    except BaseException:
        with contextlib.suppress(HostError):
            run_hook(hook_of(hooks, after), after, volume, path)
        raise
    run_hook(hook_of(hooks, after), after, volume, path)


def _start(hook: Hook, phase: str, environment: Dict[bytes, bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(hook.arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _failed(hook, phase, f"it cannot be started: {error}", b"") from None


def _environment(phase: str, volume: str, path: bytes) -> Dict[bytes, bytes]:
    ours = {b"VOLTOOL_VOLUME": os.fsencode(volume), b"VOLTOOL_PATH": path, b"VOLTOOL_PHASE": phase.encode()}
    return {**os.environb, **ours}


def _wait(process: subprocess.Popen[bytes], pipe: int, deadline: float) -> Tuple[bool, bytes]:
    """Whether it has ended before ``deadline`` (monotonic), and the end of what it has printed."""
    output = b""
    os.set_blocking(pipe, False)
    with selectors.DefaultSelector() as readable:
        readable.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            over = process.poll() is not None  # asked first: what it printed before is in the pipe
            if readable.select(0 if over else _POLL):
                data = os.read(pipe, 65_536)
                if not data:
                    break
                output = (output + data)[-_OUTPUT_TAIL:]
            elif over:
                return True, output
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
    return process.returncode is not None, output


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a hook and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)


def _log(phase: str, volume: str, output: bytes) -> None:
    for line in output.splitlines():
        syslog.syslog(syslog.LOG_INFO, f"{volume}: {phase}: {shown(line)}")


def _failed(hook: Hook, phase: str, why: str, output: bytes) -> HostError:
    lines = [shown(line) for line in output.splitlines()[-3:]]
    return HostError(
        f"the hook {phase} failed",
        where=shown(os.fsencode(hook.arguments[0])),
        why="; ".join([why, *lines]),
        remedy=f"run it by hand on the host, or change {phase} in the volume's section of the configuration",
    )
