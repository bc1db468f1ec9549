"""The unattended run, with real hosts: what is wrong with one volume keeps no other from its dump, and all of it is told."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.catalog.samples import make_volume
from tests.cli.test_json import SCHEMA, check_fields
from tests.hosts import VOLTOOL, Site
from tests.remote.processes import processes_with, wait_until
from voltool.catalog.sqlite import SqliteCatalog
from voltool.config.paths import catalog_path
from voltool.durable import FileLock
from voltool.model import KnownVolume

CONFIG = """
schedule = "weekly"
timezone = "Europe/Berlin"
parallel = 4
parallel_per_host = 3
stall_timeout = 6
retries = 1
retry_wait = 1

[hosts.silent]
connect_timeout = 1

[volumes.hung]
# The agent stands still, as on a hung disk; later it goes on, and finds that nobody waits for it any more.
before_clone = ["sh", "-c", "kill -STOP $PPID; sleep 9; kill -CONT $PPID"]
hook_timeout = 1

[volumes.malformed]
schedule = "032x476"

[volumes.spoilt]
store = 7

[volumes.lonely]
schedule = ""

[volumes.ghost]
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as made:
        made.add_host("hosta")
        (made.home / ".config/voltool").mkdir(parents=True)
        yield made


def configure(site: Site, text: str) -> None:
    (site.home / ".config/voltool/config.toml").write_text(text)


def add(site: Site, name: str) -> Path:
    """A volume on hosta."""
    path = site.directory / "srv" / name / "tree"
    path.mkdir(parents=True)
    (path / "file").write_bytes(os.urandom(20_000))
    site.voltool("volume", "add", name, f"hosta:{path}")
    return path


@contextlib.contextmanager
def catalog(site: Site) -> Iterator[SqliteCatalog]:
    opened = SqliteCatalog(catalog_path(str(site.state)))
    yield opened
    opened.close()


class SilentHost:
    """Takes connections and never says a word; counts them."""

    def __init__(self, site: Site) -> None:
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        with site.ssh_config.open("a") as file:
            file.write(f"Host silent\n    HostName 127.0.0.1\n    Port {port}\n")
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._open.append(self._listener.accept()[0])
                self.connections += 1

    def close(self) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()


def start(site: Site, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(VOLTOOL), "--json", "backup", *arguments], env=site.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def result_of(lines: list[str]) -> dict[str, Any]:
    for line in lines[:-1]:
        event = json.loads(line)
        check_fields(event, SCHEMA[event["event"]], event["event"])
    last: dict[str, Any] = json.loads(lines[-1])
    check_fields(last, {**SCHEMA["result"], **SCHEMA["backup"]}, "result")
    return last


def area_of(path: Path) -> Path:
    (area,) = (path.parent / ".voltool").iterdir()
    return area


def test_what_is_wrong_with_one_keeps_no_other_from_its_dump(site: Site) -> None:
    silent = SilentHost(site)
    add(site, "good")
    later, hung = add(site, "later"), add(site, "hung")
    with catalog(site) as known:
        for name in ("dead1", "dead2", "dead3"):
            known.put_volume(make_volume(name, host="silent"))
        for name in ("malformed", "spoilt", "lonely"):
            known.put_volume(make_volume(name, host="hosta"))
    configure(site, CONFIG)
    busy = FileLock(os.fspath(area_of(later) / "lock"), what="the volume", owner="the test")
    busy.acquire()
    lines: list[str] = []
    with start(site) as process:
        assert process.stdout is not None
        lines.append(process.stdout.readline())  # it has begun, and the volume that hangs takes its time
        second = site.voltool("backup", check=False)
        for line in process.stdout:
            lines.append(line)
            if "later" in line and "tried again" in line:
                busy.release()
    silent.close()
    assert process.returncode == 1, lines
    last = result_of(lines)
    turns = {turn["volume"]: turn for turn in last["turns"]}
    assert set(turns) == {
        "good", "later", "hung", "dead1", "dead2", "dead3", "malformed", "spoilt", "ghost"
    }  # fmt: skip
    assert_each_is_told(last, turns)
    assert silent.connections == 2, "a dead host fails all its volumes at once: one connection in each pass"
    # A second one at the same time is told who runs.
    assert second.returncode == 4
    assert f"pid {process.pid}" in second.stderr
    with catalog(site) as known:
        assert {run.volume: run.exit_code for run in known.runs()} == {
            name: turn["exit"] for name, turn in turns.items()
        }
    assert_nothing_left(site, hung)
    assert_the_next_run_catches_up(site)


def assert_each_is_told(last: dict[str, Any], turns: dict[str, Any]) -> None:
    """Those that could be dumped were, the one that was busy at the second attempt."""
    assert (turns["good"]["made_level"], turns["good"]["exit"], turns["good"]["attempts"]) == (0, 0, 1)
    assert (turns["later"]["made_level"], turns["later"]["exit"], turns["later"]["attempts"]) == (0, 0, 2)
    for name in ("dead1", "dead2", "dead3"):
        assert (turns[name]["exit"], turns[name]["attempts"], turns[name]["dump"]) == (6, 2, None)
    assert "made no progress" in turns["hung"]["failed"]
    assert turns["hung"]["attempts"] == 1
    assert "character 4 ('x')" in turns["malformed"]["failed"]
    assert "config.toml, line 22" in turns["spoilt"]["failed"]
    assert "there is no volume 'ghost'" in turns["ghost"]["failed"]
    assert last["unscheduled"] == ["lonely"]
    assert {error["subject"] for error in last["errors"]} == set(turns) - {"good", "later"}


def assert_the_next_run_catches_up(site: Site) -> None:
    """Nothing that went well is due again; what failed is, and is made without the hook that hangs."""
    configure(site, CONFIG.partition("[volumes.malformed]")[0].replace("kill -STOP $PPID; sleep 9; ", ""))
    with catalog(site) as known:
        for name in ("malformed", "spoilt", "lonely", "dead1", "dead2", "dead3"):
            known.remove_volume(make_volume(name).uuid)
    planned = json.loads(site.voltool("--json", "backup", "--dry-run").stdout)
    assert [(turn["volume"], turn["level"]) for turn in planned["planned"]] == [("hung", 0)]
    assert sorted(planned["not_due"]) == ["good", "later"]
    done = site.voltool("backup")
    assert done.stdout.startswith("hung: level 0: ")
    assert "1 dumped" in done.stdout.splitlines()[-1]
    quiet = site.voltool("--quiet", "backup")
    assert quiet.stdout == quiet.stderr == ""
    again = json.loads(site.voltool("--json", "backup", "good").stdout.splitlines()[-1])
    assert again["turns"][0]["made_level"] > 0, "by name it is dumped once more"


def assert_nothing_left(site: Site, volume: Path) -> None:
    state = str(site.hosts["hosta"].state)
    assert wait_until(lambda: not processes_with(state)), "an agent still runs"
    assert list((site.state / "store").rglob(".*")) == []
    area = area_of(volume)
    assert not (area / "tmp").exists()
    with open(area / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_sigterm_ends_what_runs_and_the_report_is_made(site: Site) -> None:
    path = add(site, "slow")
    with catalog(site) as known:
        known.put_volume(KnownVolume("f" * 32, "waiting", "hosta", b"/srv/waiting", "directory"))
    configure(
        site,
        'schedule = "weekly"\nparallel = 1\n[volumes.slow]\nbefore_clone = ["sleep", "31415"]\nhook_timeout = 2000\n',
    )
    process = start(site)
    state = str(site.hosts["hosta"].state)
    assert wait_until(lambda: (area_of(path) / "lock").exists() and (area_of(path) / "lock").stat().st_size > 0)
    assert wait_until(lambda: bool(processes_with("31415")))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    last = result_of(output.splitlines())
    turns = {turn["volume"]: turn for turn in last["turns"]}
    assert (turns["slow"]["exit"], turns["slow"]["attempts"]) == (130, 1)
    assert (turns["waiting"]["exit"], turns["waiting"]["attempts"]) == (130, 0)
    assert "before its turn" in turns["waiting"]["failed"]
    with catalog(site) as known:
        assert {run.volume for run in known.runs()} == {"slow", "waiting"}
    assert wait_until(lambda: not processes_with(state))
    assert_nothing_left(site, path)
