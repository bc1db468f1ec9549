"""Hooks: the user's own programs around a clone, a lock, a publish. Argument lists, never a shell. Ships to servers.

A hook runs on the volume's host, in / and in a session of its own, with VOLTOOL_VOLUME, VOLTOOL_PATH and VOLTOOL_PHASE
in its environment. Its output goes to the host's syslog, and its end into the error when it fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import syslog
from dataclasses import dataclass
from typing import Dict, Iterator, Optional, Tuple

from voltool.errors import HostError
from voltool.model import Hooks
from voltool.showing import shown

_OUTPUT_TAIL = 2000


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
    try:
        output, _nothing = process.communicate(timeout=hook.timeout)
    except subprocess.TimeoutExpired:
        raise _failed(hook, phase, f"it took longer than {hook.timeout} s", _kill(process)) from None
    except BaseException:
        _kill(process)
        raise
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


def _kill(process: subprocess.Popen[bytes]) -> bytes:
    """End a hook and what it started; its output so far."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        return b""


def _log(phase: str, volume: str, output: bytes) -> None:
    for line in output[-_OUTPUT_TAIL:].splitlines():
        syslog.syslog(syslog.LOG_INFO, f"{volume}: {phase}: {shown(line)}")


def _failed(hook: Hook, phase: str, why: str, output: bytes) -> HostError:
    lines = [shown(line) for line in output[-_OUTPUT_TAIL:].splitlines()[-3:]]
    return HostError(
        f"the hook {phase} failed",
        where=shown(os.fsencode(hook.arguments[0])),
        why="; ".join([why, *lines]),
        remedy=f"run it by hand on the host, or change {phase} in the volume's section of the configuration",
    )
