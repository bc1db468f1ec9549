"""A throw-away machine: its own name, identity and mounts, so that two of them can have the same paths on one kernel.

What is mounted in it is nowhere else, as on a machine of its own: `/srv` and `/var/lib/docker` lie on a file system of its own,
and what is written to `_OWN` is gone with it. Users, processes, the network and the clock
are the real machine's. Knows nothing of voltool. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.filesystems import _PREFIX as PREFIX
from tests.filesystems import LoopFilesystem

#: What a machine may write to without the real one seeing it.
_OWN = ("etc", "usr/local", "var/lib", "var/log", "run")
#: Runs until the machine is switched off; everything that is mounted here goes with the namespace. What other tests have mounted
#: at this moment must not stay: a lock would find that their volumes can be written to from here.
_BOOT = """
awk '$5 ~ "^{others}" {{ print $5 }}' /proc/self/mountinfo | sort -r | xargs -r umount -l
hostname {name}
mount -t tmpfs -o mode=755 {name} {scratch}
for own in {own}; do
    mkdir -p {scratch}/upper/$own {scratch}/work/$own
    mount -t overlay -o lowerdir=/$own,upperdir={scratch}/upper/$own,workdir={scratch}/work/$own {name} /$own
done
mkdir {scratch}/disk
mount -t {kind} {image} {scratch}/disk -o loop
mkdir -p {scratch}/disk/srv {scratch}/disk/docker /var/lib/docker
mount --bind {scratch}/disk/srv /srv
mount --bind {scratch}/disk/docker /var/lib/docker
umount {scratch}/disk
mount -t cgroup2 {name} /sys/fs/cgroup
tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
echo up
exec sleep infinity
"""


class Machine:
    """A running machine called ``name``, with ``/srv`` on a file system of ``kind``; use as a context manager."""

    def __init__(self, name: str, directory: Path, kind: str) -> None:
        self.name = name
        self._scratch = directory / f"machine-{name}"
        self._filesystem = LoopFilesystem(kind)
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._filesystem)
            self._filesystem.unmount()  # other tests copy the mounts that they find
            self._scratch.mkdir(parents=True)
            stack.callback(self._switch_off)
            self._boot()
            self._on_exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_exit.close()

    @property
    def entrance(self) -> list[str]:
        """What a command line begins with in order to run here."""
        assert self._holder is not None, "the machine is not switched on"
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", f"--uts=/proc/{self._holder.pid}/ns/uts"]

    def path(self, path: str) -> Path:
        """A file of the machine, as the real one can open it."""
        assert self._holder is not None, "the machine is not switched on"
        return Path(f"/proc/{self._holder.pid}/root{path}")

    @contextlib.contextmanager
    def running(self, *command: str, environment: Mapping[str, str]) -> Iterator[None]:
        """A daemon that stays in the foreground, in a session of its own, until the context ends."""
        process = subprocess.Popen(
            [*self.entrance, *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)

    def run(self, script: str, environment: Mapping[str, str] | None = None, stdin: str = "") -> tuple[str, int]:
        """What a shell script prints here, and its exit status."""
        done = subprocess.run(
            [*self.entrance, "bash", "-c", script],
            env=None if environment is None else dict(environment),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            timeout=120,
            check=False,
        )
        return done.stdout, done.returncode

    def must(self, script: str) -> str:
        """`run`, for what has to succeed."""
        output, status = self.run(script)
        assert status == 0, f"{self.name}: {script}: {output}"
        return output

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of the machine."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def _boot(self) -> None:
        script = "set -e\n" + _BOOT.format(
            name=self.name,
            others=f"{tempfile.gettempdir()}/{PREFIX}",
            scratch=shlex.quote(str(self._scratch)),
            own=" ".join(_OWN),
            kind=self._filesystem.kind,
            image=shlex.quote(str(self._filesystem.image)),
        )
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--uts", "--propagation", "private", "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        lines = []
        for line in self._holder.stdout:
            if line == "up\n":
                return
            lines.append(line)
        raise AssertionError(f"{self.name} does not start: {''.join(lines)}")

    def _switch_off(self) -> None:
        """End everything that runs here, then what holds the mounts."""
        if self._holder is None:
            return
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._holder.wait(10)
        assert self._holder.stdout is not None
        self._holder.stdout.close()

    def _processes(self) -> list[int]:
        """Who sees this machine's host name, containers left aside (they end with their first process)."""
        assert self._holder is not None
        ours = os.readlink(f"/proc/{self._holder.pid}/ns/uts")
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.readlink(f"/proc/{name}/ns/uts") == ours:
                    found.append(int(name))
        return found
