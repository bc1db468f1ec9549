"""Under a real systemd the processes of lazy replicas are units: they are started again, and survive whoever asked for them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.rig import await_true
from tests.volumes.lock.test_scope import SYSTEMD, Machine
from voltool.remote.ship import build_agent

ROOT = Path(__file__).parents[2]
TARGETS = ("multi-user", "network-online", "local-fs", "remote-fs", "sysinit", "basic", "shutdown")
ID = "5a" * 16
#: What an agent does there; the file that it was shipped as is the first argument.
SERVE = """
import os, sys
from voltool.agent import daemon
from voltool.agent.host import find_host_state
from voltool.agent.fetching import served
from voltool.agent.path.identity import make_identity
from voltool.agent.replica.records import ReplicaBook
from voltool.model import SERVING, Peer, ReplicaRecord
from voltool.wire.serving import ServeFiles, StopServing
program, state, tree, replica, what = sys.argv[1:]
daemon._own_program = lambda: os.fsencode(program)
host = find_host_state({"VOLTOOL_STATE_DIR": state}, 0)
if what == "stop":
    served.stop_serving(StopServing(replica), None, host)
else:
    home = Peer("home", "", "", b"/srv")
    ReplicaBook(host.directory).save(ReplicaRecord("b" * 32, "a" * 32, "vol", os.fsencode(tree), home, SERVING, 1))
    peer = make_identity().certificate
    print(served.serve_files(ServeFiles("a" * 32, replica, "replica", peer), None, host).port)
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    needed = [str(SYSTEMD), "busctl", "dbus-daemon", "nsenter"]
    if os.geteuid() != 0 or not all(map(shutil.which, needed)) or not Path("/sys/fs/cgroup").is_dir():
        pytest.skip("needs root, systemd and dbus-daemon")
    directory = tmp_path / "machine"
    directory.mkdir()
    made = Machine(directory, TARGETS)
    subprocess.run(["mount", "--bind", str(directory / "units"), "/etc/systemd/system"], check=True)
    try:
        made.wait()
        made.run("mount", "--bind", str(directory / "units"), "/etc/systemd/system")
        yield made
    finally:
        made.stop()
        subprocess.run(["umount", "--lazy", "/etc/systemd/system"], check=True)


@pytest.mark.may_skip("systemd as process 1 of a pid namespace needs control groups that may be mounted")
def test_a_unit_is_enabled_is_started_again_and_goes_without_a_trace(machine: Machine, tmp_path: Path) -> None:
    program = tmp_path / "agent.pyz"
    program.write_bytes(build_agent().data)
    state, tree = tmp_path / '100% $of "it"', tmp_path / "tree"
    tree.mkdir()
    units = tmp_path / "machine/units"
    words = [str(program), str(state), str(tree), ID]
    python = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-c", SERVE, *words]
    port = machine.run(*python, "serve").stdout.strip()
    unit = f"voltool-serve-{ID}.service"
    assert (units / "multi-user.target.wants" / unit).is_symlink()

    def pid() -> str:
        return machine.run("systemctl", "show", "-P", "MainPID", unit).stdout.strip()

    first = pid()
    run = state / f"daemons/serve-{ID}.run"
    assert json.loads(run.read_text())["pid"] == int(first)
    machine.run("systemctl", "kill", "-s", "KILL", unit)
    await_true(lambda: pid() not in ("0", first) and json.loads(run.read_text())["ready"])
    assert json.loads(run.read_text())["facts"]["port"] == port
    machine.run(*python, "stop")
    await_true(lambda: machine.run("systemctl", "is-active", unit, check=False).stdout.strip() != "active")
    assert [path.name for path in units.rglob("*voltool*")] == []
    assert list((state / "daemons").iterdir()) == list((state / "keys").iterdir()) == []
