"""Runs one command and measures it with all the processes it starts: time, CPU, memory.

CPU seconds are what wait4(2) reports of the command and its descendants; peak memory is the largest sum, over samples
100 ms apart, of the proportional set sizes (``Pss`` in /proc/PID/smaps_rollup: what several processes share counts
once) of the command's whole tree. Page cache is nobody's and is not counted. Where a tool works through sshd, the tree
and the CPU of that sshd belong to it too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_INTERVAL = 0.1


class ContenderError(Exception):
    """A command of the comparison ended with an error; the text says which and how."""


@dataclass(frozen=True)
class Measurement:
    """One run: wall-clock seconds, CPU seconds (user and system), peak memory in bytes."""

    seconds: float
    cpu: float
    memory: int


def run(command: str, environment: Mapping[str, str], servers: Sequence[int] = ()) -> Measurement:
    """Run a shell ``command``; ``servers`` are the pids of sshds that work for it. Raises ContenderError."""
    before = sum(_tree_cpu(server) for server in servers)
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            ["/bin/bash", "-o", "pipefail", "-ec", command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        sampler = _Sampler([process.pid, *servers])
        sampler.start()
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode != 0:
        raise ContenderError(f"{command}\nended with {process.returncode}:\n{text[-4000:]}")
    served = sum(_tree_cpu(server) for server in servers) - before
    return Measurement(seconds, usage.ru_utime + usage.ru_stime + served, sampler.peak)


class _Sampler(threading.Thread):
    """Samples the memory of process trees until it is stopped."""

    def __init__(self, roots: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._roots = roots
        self._done = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._done.is_set():
            total = sum(_proportional_size(pid) for root in self._roots for pid in _tree(root))
            self.peak = max(self.peak, total)
            self._done.wait(_INTERVAL)

    def stop(self) -> None:
        """End sampling; returns when the thread is gone."""
        self._done.set()
        self.join()


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:  # grows while it is walked
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                children = Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii")
                found += [int(word) for word in children.split()]
    return found


def _proportional_size(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _tree_cpu(pid: int) -> float:
    """CPU seconds of a process and of those it has waited for (proc(5): utime, stime, cutime, cstime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15]) / _TICK
