"""A real systemd, process 1 of a namespace of its own, takes the timer and runs the service."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import VOLTOOL, Site
from tests.volumes.lock.test_scope import SYSTEMD, Machine

#: When each timer ran last; it outlives systemd.
STAMPS = Path("/var/lib/systemd/timers")
#: What a timer and a service stand on, as far as a machine without anything has it.
TARGETS = ("sysinit", "basic", "timers", "shutdown", "network-online", "time-set", "time-sync")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    needed = [str(SYSTEMD), "busctl", "dbus-daemon", "nsenter"]
    if os.geteuid() != 0 or not all(map(shutil.which, needed)) or not Path("/sys/fs/cgroup").is_dir():
        pytest.skip("needs root, systemd and dbus-daemon")
    directory = tmp_path / "machine"
    directory.mkdir()
    made = Machine(directory)
    units = directory / "units"
    for name in TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    subprocess.run(["mount", "--bind", str(units), "/etc/systemd/system"], check=True)
    try:
        made.wait()
        yield made
    finally:
        made.stop()
        subprocess.run(["umount", "--lazy", "/etc/systemd/system"], check=True)


@pytest.mark.may_skip("systemd as process 1 of a pid namespace needs control groups that may be mounted")
def test_a_real_systemd_runs_what_was_installed(machine: Machine, tmp_path: Path) -> None:
    with Site(tmp_path / "si te") as site:
        tree = tmp_path / "srv/tree"
        tree.mkdir(parents=True)
        (tree / "file").write_bytes(b"content")
        config = site.directory / "100% $own.toml"
        config.write_text('schedule = "weekly"\n')
        site.voltool("volume", "add", "vol", f"local:{tree}")
        machine.run("mount", "--bind", str(tmp_path / "machine/units"), "/etc/systemd/system")
        machine.run("mkdir", "-p", str(STAMPS))
        machine.run("mount", "-t", "tmpfs", "tmpfs", str(STAMPS))
        voltool = ["env", f"VOLTOOL_STATE_DIR={site.state}", str(VOLTOOL), "--config", str(config)]
        installed = machine.run(*voltool, "schedule", "install", "--at", "22:15").stdout
        assert installed.startswith(
            "called by systemd (/etc/systemd/system/voltool-backup.timer): OnCalendar=*-*-* 22:15:00;"
        )
        assert " 22:15:00 " in machine.run("systemctl", "list-timers", "voltool-backup.timer").stdout
        assert machine.run("ls", str(STAMPS)).stdout == "stamp-voltool-backup.timer\n"
        machine.run("systemctl", "start", "voltool-backup.service")
        assert len(list((site.state / "store").rglob("*-L0-*.voltool"))) == 1
        assert machine.run(*voltool, "schedule", "uninstall").stdout == "taken out: systemd\n"
        assert machine.run("ls", str(STAMPS)).stdout == "", "the next one would run at once"
        assert "0 timers" in machine.run("systemctl", "list-timers", "--all").stdout
        assert not [name for name in os.listdir(tmp_path / "machine/units") if "voltool" in name]
        assert list((tmp_path / "machine/units/timers.target.wants").glob("*")) == []
