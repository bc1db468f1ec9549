"""Machines of a test's own on one machine: each with its network, mounts and host name, joined by a bridge.

A machine is a process that holds its namespaces; the processes are those of the whole machine, as voltool's lock wants to see
them. All of it goes when the processes in it have ended, also after a test that was killed. Needs root. Knows nothing of voltool.
Sources: network_namespaces(7), mount_namespaces(7), nsenter(1).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.filesystems import DEFAULT_SIZE, make_image, mount_image, skip_without, temporary_home

_NET = "10.77.0"
_TOOLS = ("ip", "nsenter", "setpriv", "unshare")
#: A card that is nowhere: what is sent to it gets lost without a word.
_NOBODY = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
#: $1: where file systems of tests are; the rest: what stays writable.
_LET_GO = """
temporary=$1; shift
points() { cut -d ' ' -f 5 /proc/self/mountinfo; }
points | grep "^$temporary/" | while read -r point; do umount -l "$point" 2>/dev/null; done
old=$(points | grep -v -e '^/proc' -e '^/sys' -e '^/dev')
for directory; do mount --bind "$directory" "$directory"; done
for point in $old; do mount -o remount,bind,ro "$point" 2>/dev/null; done
"""
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Network:
    """Where the command line runs: ``enter`` before a command lets it run there. A context manager."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can make network namespaces")
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            pytest.skip(f"no {missing[0]} on this machine")
        self._holder = _hold("--net")
        self.enter = _entering(self._holder, "--net")
        self.machines: dict[str, Machine] = {}
        try:
            _ip(self.enter, "link", "add", "bridge", "type", "bridge")
            _ip(self.enter, "address", "add", f"{_NET}.1/24", "dev", "bridge")
            for device in ("bridge", "lo"):
                _ip(self.enter, "link", "set", device, "up")
        except BaseException:
            self.close()
            raise

    def add(self, name: str, writable: Path) -> Machine:
        """Make one more machine and plug it in; of this machine's disks it may write to ``writable`` alone."""
        machine = Machine(name, f"{_NET}.{len(self.machines) + 2}", self.enter, writable)
        self.machines[name] = machine
        return machine

    def close(self) -> None:
        """End everything that runs there. Idempotent."""
        for machine in self.machines.values():
            machine.close()
        _end(self._holder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Machine:
    """``enter`` before a command lets it run there; ``address``; ``root``: its files, as seen from outside."""

    def __init__(self, name: str, address: str, desk: Sequence[str], writable: Path) -> None:
        self.name = name
        self.address = address
        self._desk = desk
        self._images: dict[str, tuple[str, Path]] = {}
        self._home = temporary_home()
        self._holder = _hold("--net", "--mount", "--uts", "--propagation", "private", writable=(writable, self._home))
        self.enter = _entering(self._holder, "--net", "--mount", "--uts")
        self.root = Path(f"/proc/{self._holder.pid}/root")
        self._cable = f"to-{name[:12]}"
        try:
            self._plug_in()
            self.run("hostname", name)
            self._bind("/etc/machine-id", secrets.token_hex(16))
        except BaseException:
            self.close()
            raise

    def _plug_in(self) -> None:
        peer = ["type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid)]
        _ip(self._desk, "link", "add", self._cable, *peer)
        _ip(self._desk, "link", "set", self._cable, "master", "bridge", "up")
        _ip(self.enter, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip(self.enter, "link", "set", device, "up")

    def run(self, *command: str) -> str:
        """Run a command there; what it says. CalledProcessError when it fails."""
        return subprocess.run([*self.enter, *command], check=True, capture_output=True, text=True).stdout

    def mount(self, kind: str, point: str, size: int = DEFAULT_SIZE) -> Path:
        """A new file system of ``kind`` at ``point``, which is visible there alone; its root as seen from outside."""
        skip_without(kind)
        image = self._home / f"image-{len(self._images)}"
        make_image(kind, image, size)
        self._images[point] = (kind, image)
        mount_image(kind, image, point, enter=self.enter)
        return self.outside(point)

    def mounts(self) -> list[str]:
        """Lines of its mountinfo."""
        return Path(f"/proc/{self._holder.pid}/mountinfo").read_text().splitlines()

    def outside(self, path: str | Path) -> Path:
        """A path of the machine as seen from outside."""
        return self.root / str(path).lstrip("/")

    # --------------------------------------------------------------------------------------------------- the network

    def cut(self) -> None:
        """Pull the cable."""
        _ip(self.enter, "link", "set", "eth0", "down")

    def mute(self) -> None:
        """What it sends gets lost; what is sent to it arrives."""
        _ip(self.enter, "neighbour", "replace", f"{_NET}.1", *_NOBODY, "dev", "eth0")

    def deafen(self) -> None:
        """What is sent to it gets lost; what it sends arrives."""
        _ip(self._desk, "neighbour", "replace", self.address, *_NOBODY, "dev", "bridge")

    def mend(self) -> None:
        """Everything passes again. Idempotent."""
        _ip(self.enter, "link", "set", "eth0", "up")
        for enter, address, device in ((self.enter, f"{_NET}.1", "eth0"), (self._desk, self.address, "bridge")):
            command = [*enter, "ip", "neighbour", "delete", address, "dev", device]
            subprocess.run(command, check=False, capture_output=True)

    # ------------------------------------------------------------------------------------------------ life and death

    def processes(self) -> list[int]:
        """All that run there."""
        ours = os.readlink(f"/proc/{self._holder.pid}/ns/net")
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.readlink(f"/proc/{name}/ns/net") == ours and int(name) != self._holder.pid:
                    found.append(int(name))
        return found

    def reboot(self, spared: Sequence[int] = ()) -> None:
        """As after a power failure and a boot: nothing runs but ``spared`` (sshd), no mount is there but those of the file
        systems, the boot has another id."""
        self._kill(spared)
        for point, (kind, image) in self._images.items():
            _insist([*self.enter, "umount", "--recursive", point])
            mount_image(kind, image, point, enter=self.enter)
        self._bind(_BOOT_ID, str(uuid.uuid4()))

    def _kill(self, spared: Sequence[int]) -> None:
        while victims := [pid for pid in self.processes() if pid not in spared]:
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _bind(self, path: str, content: str) -> None:
        """Let a file of the system have another content there."""
        if not Path(path).exists():
            return
        file = self._home / f"bound-{secrets.token_hex(4)}"
        file.write_text(content + "\n")
        self.run("mount", "--bind", str(file), path)

    def close(self) -> None:
        """End all that runs there; its mounts and its network go with the last process. Idempotent."""
        if self._holder.poll() is None:
            self._kill(())
            for point in self._images:
                subprocess.run([*self.enter, "umount", "--recursive", point], check=False, capture_output=True)
        _end(self._holder)
        shutil.rmtree(self._home, ignore_errors=True)


def _hold(*namespaces: str, writable: Sequence[Path] = ()) -> subprocess.Popen[bytes]:
    """A process that holds new namespaces and dies with us.

    A new mount namespace is a copy of all mounts: whoever locks a tree on one of them, another test for instance, would wait
    for us if we could write to it.
    """
    script = f"{_LET_GO if writable else ''}echo; exec sleep infinity"
    words = ["sh", "-c", script, "sh", tempfile.gettempdir(), *map(str, writable)]
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *words]
    holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert holder.stdout is not None
    if holder.stdout.read(1) != b"\n":
        pytest.skip("this kernel makes no namespaces")
    return holder


def _end(holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    holder.wait()
    if holder.stdout is not None:
        holder.stdout.close()


def _entering(holder: subprocess.Popen[bytes], *namespaces: str) -> list[str]:
    return ["nsenter", f"--target={holder.pid}", *namespaces, "--"]


def _ip(enter: Sequence[str], *arguments: str) -> None:
    subprocess.run([*enter, "ip", *arguments], check=True, capture_output=True)


def _insist(command: Sequence[str]) -> None:
    """Run it until it works: what was killed may hold a mount for a moment."""
    for attempt in range(20):
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return
        time.sleep(0.05 * attempt)
    subprocess.run(command, check=True)
