"""`voltool replica` for real: hosts with real sshds, a btrfs and an ext4, replicas that are added, synced, lost and removed."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from tests.judge import compare
from tests.writer import Writer, wait_until
from voltool.catalog.sqlite import SqliteCatalog
from voltool.cli.main import main
from voltool.config.paths import catalog_path
from voltool.model import KnownReplica
from voltool.volumes.lock.hold import in_container


class Ground:
    """``hosta`` has the volume ``vol`` (some 3 MB) on a file system of ``kind``; replicas are on the same one."""

    def __init__(self, site: Site, filesystem: LoopFilesystem, hosts: tuple[str, ...]) -> None:
        self.site = site
        self.path = filesystem.path
        self.said: list[str] = []
        self.volume = filesystem.path / "vol"
        for host in hosts:
            site.add_host(host)
            self.place(host).parent.mkdir()
        if filesystem.kind == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", str(self.volume)], check=True)
        else:
            self.volume.mkdir()
        generator = random.Random(3)
        for number in range(120):
            directory = self.volume / f"d{number % 7}"
            directory.mkdir(exist_ok=True)
            (directory / f"f{number}").write_bytes(generator.randbytes(generator.randrange(20_000)))
        (self.volume / "large").write_bytes(generator.randbytes(2_000_000))
        os.link(self.volume / "large", self.volume / "d1" / "other name")
        self.voltool("volume", "add", "vol", f"hosta:{self.volume}")

    def place(self, host: str) -> Path:
        """Where the replica on ``host`` is served."""
        return self.path / f"of-{host}" / "vol"

    def voltool(self, *arguments: str, expect: tuple[int, ...] = (0,), **environment: str) -> dict[str, Any]:
        """The result of a call of voltool, in this process: that is much faster than one of its own. Events are in ``said``."""
        said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
            for name, value in {**self.site.environment, **environment}.items():
                patch.setenv(name, value)
            code = main(["--json", *arguments])
        said.seek(0)
        *self.said, last = said.read().splitlines()
        result: dict[str, Any] = json.loads(last)
        assert code in expect, json.dumps(result.get("errors", result.get("error")))
        return result

    def add(self, host: str) -> dict[str, Any]:
        return self.voltool("replica", "add", "vol", f"{host}:{self.place(host)}")

    def configure(self, text: str) -> None:
        config = self.site.home / ".config" / "voltool" / "config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text)

    def clear(self) -> None:
        """Nothing of voltool keeps the file system busy."""
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            point = line.split()[4]
            if point.startswith(f"{self.path}/"):
                subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        subprocess.run(["chattr", "-i", str(self.volume)], check=False, capture_output=True)


@contextlib.contextmanager
def made(tmp_path: Path, kind: str, *hosts: str) -> Iterator[Ground]:
    with LoopFilesystem(kind) as filesystem, Site(tmp_path / "site") as site:
        ground = Ground(site, filesystem, hosts)
        try:
            yield ground
        finally:
            ground.clear()


def known_in(state: Path) -> list[KnownReplica]:
    catalog = SqliteCatalog(catalog_path(str(state)))
    with contextlib.closing(catalog):
        return catalog.replicas()


def read(tree: Path) -> dict[str, bytes]:
    """The files of the tree that the tests change."""
    return {path.name: path.read_bytes() for path in tree.iterdir() if path.name.startswith("new")}


def test_replicas_are_added_synced_and_removed(tmp_path: Path) -> None:
    """A dead host's replica keeps its last good state, and nobody else from the new one."""
    with made(tmp_path, "btrfs", "hosta", "hostb", "hostc") as ground:
        site = ground.site
        for host in ("hostb", "hostc"):
            assert ground.add(host)["synced"][0]["entries"] == 129
            assert compare(ground.volume, ground.place(host)) == []
        (ground.volume / "new").write_text("1")
        site.hosts["hostc"].sshd.down()
        ground.configure("max_lag = 1\n")
        last = ground.voltool("replica", "sync", "vol", expect=(6,))
        assert (last["exit"], last["errors"][0]["subject"]) == (6, "vol on hostc")
        assert read(ground.place("hostb")) == {"new": b"1"}
        assert read(ground.place("hostc")) == {}
        (b, c) = ground.voltool("replica", "list", expect=(3,))["replicas"]
        assert (b["silent"], b["lag_clones"]) == (None, 0)
        assert (c["state"], c["lag_clones"], c["stale"]) == ("unreachable", 1, True)
        site.hosts["hostc"].sshd.up()
        for _attempt in range(
            3
        ):  # on a busy machine it takes longer than max_lag (3), or than what a direct path may take (6)
            last = ground.voltool("replica", "sync", "--all", "--path", "direct", expect=(0, 3, 6))
            if last["exit"] != 6:
                break
        assert {each["replica"]["host"]: each["bytes"] for each in last["synced"]} == {"hostb": 0, "hostc": 1}
        assert compare(ground.volume, ground.place("hostc")) == []
        ground.voltool("replica", "remove", "vol", "hostb", "--purge")
        assert not ground.place("hostb").exists()
        site.hosts["hostc"].sshd.down()
        ground.voltool("replica", "remove", "vol", "hostc", "--forget-host")
        assert ground.place("hostc").exists()
        assert list(ground.path.glob(".voltool/*/replicas/*")) == [], "the home keeps nothing for them any more"


def test_a_move_takes_replicas_along_and_hosts_bring_the_catalog_back(tmp_path: Path) -> None:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with made(tmp_path, "ext4", "hosta", "hostb", "hostd") as ground:
        (ground.path / "full" / "of something").mkdir(parents=True)
        ground.voltool("replica", "add", "vol", f"hostb:{ground.path}/full", expect=(1,))
        assert known_in(ground.site.state) == [], "what was refused leaves nothing"
        assert list(ground.path.glob(".voltool/*/replicas/*")) == []
        ground.add("hostb")
        ground.voltool("move", "vol", f"hostd:{ground.place('hostd')}", "--yes")
        (ground.place("hostd") / "new").write_bytes(os.urandom(500))
        (synced,) = ground.voltool("replica", "sync", "vol", "--path", "relay")["synced"]
        assert synced["bytes"] < 2000, "what the replica has is not sent again"
        assert compare(ground.place("hostd"), ground.place("hostb")) == []
        (before,) = known_in(ground.site.state)
        hosts = ["--host", "hostd", "--host", "hostb"]
        ground.voltool("catalog", "rebuild", *hosts, VOLTOOL_STATE_DIR=str(tmp_path / "anew"))
        (after,) = known_in(tmp_path / "anew")
        assert replace(after, checked_ns=0) == replace(before, checked_ns=0)


def test_a_follower_lives_through_the_death_of_a_host_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with made(tmp_path, "btrfs", "hosta", "hostb") as ground:
        site = ground.site
        ground.add("hostb")
        served, said = ground.place("hostb"), tmp_path / "said"
        writer = Writer(ground.volume, tmp_path, pause=0.05)
        with said.open("w") as output:
            follower = subprocess.Popen(
                site.command("--json", "replica", "sync", "vol", "--follow", "--interval", "0.3"),
                env=site.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

        def states() -> list[str]:
            lines = [json.loads(line) for line in said.read_text().splitlines()]
            return [line["state"] for line in lines if line["event"] == "follow"]

        def wait_for_all_written_so_far() -> None:
            wait_until(lambda: states()[-1:] == ["level"], 60)
            name, line = writer.acknowledged()[-1]
            there = (served / name, served / f"{name}.swap")
            wait_until(lambda: any(path.exists() and line in path.read_text() for path in there), 60)

        try:
            wait_for_all_written_so_far()
            site.hosts["hostb"].sshd.down()
            wait_until(lambda: states()[-1:] == ["failing"], 60)
            site.hosts["hostb"].sshd.up()
            wait_for_all_written_so_far()
            changes = len(states())
            site.hosts["hosta"].sshd.kill_sessions()
            wait_until(lambda: len(states()) > changes, 60)
            wait_for_all_written_so_far()
            writer.stop()
            follower.send_signal(signal.SIGTERM)
            assert follower.wait(60) == 0
        finally:
            writer.stop()
            follower.kill()
        assert [state for state, _same in itertools.groupby(states())] == ["level", "failing"] * 2 + ["level"]
        last = json.loads(said.read_text().splitlines()[-1])
        assert (last["command"], last["ok"], last["followed"]) == ("replica sync", True, 1)
        ground.voltool("replica", "sync", "vol")
        assert compare(ground.volume, served) == []
        assert writer.lost(served) == []
