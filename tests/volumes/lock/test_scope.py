"""The guardian under a real systemd: it leaves the login's scope, so that it outlives the login whose end kills all the rest."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.volumes.lock.places import UUID
from tests.volumes.lock.test_guardian import wait_until
from voltool.volumes.lock.book import LOCKED, LockBook

SYSTEMD = Path("/usr/lib/systemd/systemd")
ROOT = Path(__file__).parents[3]
UNITS = {
    "test.target": "[Unit]\nDefaultDependencies=no\nWants=dbus.service {wanted}\n",
    "dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    "dbus.service": (
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=simple\n"
        "ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation\n"
    ),
}
#: In namespaces of its own: an empty /run, and the control groups below a group of its own.
BOOT = """
mount -t tmpfs tmpfs /run && mkdir -p /run/dbus /run/systemd || exit
if [ -d /sys/fs/cgroup/unified ]; then
    mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup && mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified || exit
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified && mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd || exit
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit
fi
exec "$1" --system --unit=test.target
"""
#: An agent with a lock. The check refuses containers, which the namespace of this systemd is.
AGENT = """
import os, sys
from voltool.agent import guardian
from voltool.volumes.hooks import Hook
from voltool.volumes.lock import hold
from voltool.volumes.lock.book import LockBook
uuid, state, volume, mark, own_scope = sys.argv[1:]
hold.check_can_lock = lambda: None
if not int(own_scope):
    guardian._enter_own_scope = lambda: None
book, token = LockBook(os.fsencode(state), uuid), hold.new_token()
lease = guardian.start_guardian(book, token)
wish = hold.LockWish(uuid, "vol", os.fsencode(volume), "an agent", 60, 15.0, after_unlock=Hook(("touch", mark)), token=token)
hold.lock_tree(book, wish)
lease.keep()
print("locked", flush=True)
sys.stdin.read()
"""
CALL = ("busctl", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
#: A login's scope, as systemd-logind makes it.
SCOPE = f"{' '.join(CALL)} StartTransientUnit 'ssa(sv)a(sa(sv))' session-1.scope fail 1 PIDs au 1 $$ 0 >/dev/null"


class Machine:
    """A systemd of its own, as process 1 of its pid namespace. Another one on the same ``directory`` is the machine after it was
    started anew: units that were enabled are still. ``targets``: what others' units stand on; multi-user is booted into."""

    def __init__(self, directory: Path, targets: Sequence[str] = ()) -> None:
        units = directory / "units"
        units.mkdir(exist_ok=True)
        wanted = "multi-user.target" if "multi-user" in targets else ""
        for name, text in UNITS.items():
            (units / name).write_text(text.format(wanted=wanted))
        for name in targets:
            (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        self._groups = [Path(base, f"voltool-test-{os.getpid()}") for base in _hierarchies()]
        for group in self._groups:
            group.mkdir()
        join = "".join(f"echo $$ > {group}/cgroup.procs; " for group in self._groups)
        spaces = "--pid --mount --propagation private --uts --ipc --cgroup --fork --mount-proc --kill-child"
        self._outer = subprocess.Popen(
            ["sh", "-c", f'{join} exec unshare {spaces} sh -c "$BOOT" sh {SYSTEMD}'],
            env={**os.environ, "BOOT": BOOT, "container": "voltool-test", "SYSTEMD_UNIT_PATH": str(units)},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while self.run("busctl", "status", "org.freedesktop.systemd1", check=False).returncode != 0:
            if self._outer.poll() is not None or time.monotonic() > deadline:
                pytest.skip("systemd does not start here")
            time.sleep(0.1)

    def command(self, *words: str) -> list[str]:
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        return ["nsenter", "-t", children[0] if children else "0", "-m", "-p", "-C", *words]

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=check)

    def stop(self) -> None:
        if self._outer.poll() is None:
            os.killpg(self._outer.pid, signal.SIGKILL)
        self._outer.wait()
        for group in self._groups:
            wait_until(functools.partial(_remove, group))


def _hierarchies() -> list[str]:
    hybrid = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"]
    return hybrid if Path(hybrid[0]).is_dir() else ["/sys/fs/cgroup"]


def _remove(group: Path) -> bool:
    """Control groups, deepest first; False while somebody is in one of them."""
    try:
        for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            path.rmdir()
        group.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def volume(make_filesystem: Callable[..., LoopFilesystem]) -> Path:
    path = make_filesystem("tmpfs").path / "vol"
    path.mkdir()
    return path


@pytest.fixture
def machine(tmp_path: Path, volume: Path) -> Iterator[Machine]:  # it sees what is mounted before it
    needed = [str(SYSTEMD), "busctl", "dbus-daemon", "nsenter"]
    if os.geteuid() != 0 or not all(map(shutil.which, needed)) or not Path("/sys/fs/cgroup").is_dir():
        pytest.skip("needs root, systemd and dbus-daemon")
    made = Machine(tmp_path)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


@pytest.mark.may_skip("systemd as process 1 of a pid namespace needs control groups that may be mounted")
@pytest.mark.parametrize("own_scope", [True, False])
def test_a_kept_lock_outlives_the_login(machine: Machine, volume: Path, tmp_path: Path, own_scope: bool) -> None:
    """The login's scope is stopped, and everybody in it: a guardian that has no scope of its own undoes the lock then."""
    book, mark = LockBook(os.fsencode(tmp_path / "host"), UUID), tmp_path / "mark"
    arguments = [UUID, str(tmp_path / "host"), str(volume), str(mark), str(int(own_scope))]
    login = ["sh", "-c", f'{SCOPE} && exec "$@"', "sh", sys.executable, "-c", AGENT, *arguments]
    agent = subprocess.Popen(machine.command(*login), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    assert agent.stdout.readline() == b"locked\n"
    units = machine.run(*CALL, "ListUnitsByPatterns", "asas", "0", "1", "voltool-guardian-*").stdout
    assert ("running" in units) == own_scope
    machine.run(*CALL, "StopUnit", "ss", "session-1.scope", "fail")
    agent.communicate(timeout=60)
    if own_scope:
        time.sleep(1.2)  # it would have ended by now
    else:
        wait_until(mark.exists)
    record = book.read()
    assert (record is not None and record.phase == LOCKED and not mark.exists()) == own_scope
    assert (machine.run("touch", str(volume / "probe"), check=False).returncode != 0) == own_scope
