"""Under a real systemd a lazy home and a lazy replica are units: killed, they are started again, open overlay included; after a
reboot they come back by themselves, without any command; at the end no unit is left."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browse.mounting import needs_fuse
from tests.filesystems import LoopFilesystem
from tests.hosts import VOLTOOL, Site
from tests.serving.rig import await_true
from tests.serving.test_systemd import TARGETS
from tests.volumes.lock.test_scope import SYSTEMD, Machine
from voltool.volumes.lock.hold import in_container

pytestmark = needs_fuse
LOCK = "voltool/volumes/lock/hold.py"
#: So slow (bytes/s) that not all comes in the background for a minute.
SLOWLY = ("--bandwidth", "60000")


class Booted:
    """A host that systemd runs: ``local`` of a site whose other host is a part of the machine that the test runs on."""

    def __init__(self, directory: Path, site: Site) -> None:
        self._directory = directory
        self._site = site
        self.units = directory / "units"
        self.machine = Machine(directory, TARGETS)

    def begin(self) -> None:
        self.machine.wait()

    def reboot(self) -> None:
        """All processes and mounts of it are gone, but for what lies on disks."""
        self.machine.stop()
        self.machine = Machine(self._directory, TARGETS)
        self.machine.wait()

    def voltool(self, *words: str) -> None:
        done = subprocess.run(
            self.machine.command(str(VOLTOOL), *words),
            env=self._site.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def read(self, path: Path) -> bytes | None:
        """What is in a file, as a process there sees it; None: it cannot be read."""
        done = subprocess.run(self.machine.command("cat", str(path)), capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None

    def can_read(self, path: Path, content: bytes) -> bool:
        """Whether it can be read already. Nobody ever sees anything else."""
        found = self.read(path)
        assert found in (None, content)
        return found == content

    def pid(self, unit: str) -> str:
        return self.machine.run("systemctl", "show", "-P", "MainPID", unit).stdout.strip()

    def kill(self, unit: str) -> None:
        """kill -9; systemd has another one soon."""
        before = self.pid(unit)
        assert before not in ("", "0")
        self.machine.run("systemctl", "kill", "-s", "KILL", unit)
        await_true(lambda: self.pid(unit) not in ("0", before))

    def unit(self, kind: str) -> str:
        (found,) = self.units.glob(f"voltool-{kind}-*.service")
        assert (self.units / "multi-user.target.wants" / found.name).is_symlink()
        return found.name


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as made:
        made.add_host("hosta")
        yield made


@pytest.fixture
def target() -> Iterator[Path]:
    with LoopFilesystem("ext4") as filesystem:
        yield filesystem.path


@pytest.fixture
def booted(tmp_path: Path, site: Site, target: Path) -> Iterator[Booted]:  # it sees what is mounted before it
    needed = [str(SYSTEMD), "busctl", "dbus-daemon", "nsenter"]
    if os.geteuid() != 0 or not all(map(shutil.which, needed)) or not Path("/sys/fs/cgroup").is_dir():
        pytest.skip("needs root, systemd and dbus-daemon")
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    directory = tmp_path / "machine"
    (directory / "units").mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(directory / "units"), "/etc/systemd/system"], check=True)
    made = Booted(directory, site)
    try:
        made.begin()
        yield made
    finally:
        made.machine.stop()
        subprocess.run(["umount", "--lazy", "/etc/systemd/system"], check=True)
        subprocess.run(["chattr", "-i", *map(str, target.glob("*"))], check=False, capture_output=True)


@pytest.fixture
def source(booted: Booted) -> Iterator[Path]:
    """After the other host has booted: it must not see this one's disks, which could be written to from there."""
    with LoopFilesystem("btrfs") as filesystem:
        yield filesystem.path


def let_it_lock(program: Path) -> None:
    """No lock is made in a container, which the namespace of this systemd is: in this copy of the agent, it is."""
    with zipfile.ZipFile(program) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[LOCK] += b"\ndef check_can_lock(): pass\n"
    del files[f"{LOCK}c"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    program.write_bytes(buffer.getvalue())


@pytest.mark.may_skip("systemd as process 1 of a pid namespace needs control groups that may be mounted")
def test_a_lazy_home_and_a_lazy_replica_survive_a_kill_and_a_reboot(
    booted: Booted, site: Site, source: Path, target: Path
) -> None:
    content = {"f0": os.urandom(5000), "f1": os.urandom(5000), "f2": os.urandom(5000), "large": os.urandom(4_000_000)}
    there = {name: target / name for name in ("moved", "copied")}
    for name in there:
        volume = source / name
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(volume)], check=True)
        for file, data in content.items():
            (volume / file).write_bytes(data)
        site.voltool("volume", "add", name, f"hosta:{volume}")
    site.voltool("dump", *there)  # else all is read for the manifest, as slowly
    booted.voltool("replica", "add", "copied", f"local:{there['copied']}", "--lazy", *SLOWLY)
    booted.voltool("move", "--lazy", "moved", f"local:{there['moved']}", "--yes", *SLOWLY)
    home, replica = booted.unit("home"), booted.unit("lazy")
    assert booted.can_read(there["copied"] / "f0", content["f0"])
    booted.machine.run("sh", "-c", f"echo written > {there['moved']}/new")
    with writing(booted, there["moved"] / "open"):
        for unit in (home, replica):
            booted.kill(unit)
        await_true(lambda: booted.can_read(there["copied"] / "f1", content["f1"]))
        await_true(lambda: booted.can_read(there["moved"] / "f1", content["f1"]))
    assert booted.read(there["moved"] / "open") == b"before\nafter\n"
    booted.reboot()
    await_true(lambda: booted.can_read(there["copied"] / "f2", content["f2"]))
    await_true(lambda: booted.can_read(there["moved"] / "f2", content["f2"]))
    assert booted.read(there["moved"] / "new") == b"written\n"
    assert booted.read(there["moved"] / "open") == b"before\nafter\n"
    let_it_lock(site.state / "daemons" / home.replace("voltool-", "").replace(".service", ".pyz"))
    booted.machine.run("systemctl", "restart", home)
    wanted = [(path / file, data) for path in there.values() for file, data in content.items()]
    await_true(lambda: all(booted.can_read(path, data) for path, data in wanted))  # what is read has come
    await_true(lambda: not list(booted.units.rglob("voltool-*")))
    assert (
        there["moved"] / "open"
    ).read_bytes() == b"before\nafter\n"  # from outside: nothing but the plain tree is there
    assert [(path / "large").read_bytes() for path in there.values()] == [content["large"]] * 2
    assert [*(site.state / "daemons").iterdir(), *(site.state / "keys").iterdir()] == []


@contextlib.contextmanager
def writing(booted: Booted, path: Path) -> Iterator[None]:
    """Somebody there has the file open for writing meanwhile, and goes on with it."""
    command = booted.machine.command("sh", "-c", f"exec > {path}; echo before; read line; echo after")
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        await_true(lambda: booted.read(path) == b"before\n")
        yield
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(30) == 0
