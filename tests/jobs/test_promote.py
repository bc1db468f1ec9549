"""`voltool replica promote` as a user sees it: hosts by SSH, the messages, the exit codes, the JSON."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from voltool.volumes.lock.hold import in_container


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    with LoopFilesystem("ext4") as here, LoopFilesystem("xfs") as there:
        found = here.path / "vol", there.path / "vol"
        yield found
        for path in found:
            while subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True).returncode == 0:
                pass
            subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)


def test_a_lost_home_is_replaced_and_comes_back(tmp_path: Path, paths: tuple[Path, Path]) -> None:
    here, there = paths
    here.mkdir()
    (here / "file").write_bytes(b"synced")
    with Site(tmp_path / "site") as site:
        site.add_host("hosta")
        site.add_host("hostb")
        reached = site.ssh_config.read_text(encoding="utf-8")
        dead = reached.replace(f"    Port {site.hosts['hosta'].sshd.port}\n", "    Port 1\n")
        site.voltool("volume", "add", "vol", f"hosta:{here}")
        site.voltool("replica", "add", "vol", f"hostb:{there}")
        refused = site.result("replica", "promote", "vol", "hostb", check=False)
        assert (refused["exit"], refused["error"]["kind"]) == (1, "refused")
        assert "voltool move vol HOST" in refused["error"]["try"]
        site.ssh_config.write_text(dead, encoding="utf-8")
        done = site.voltool("replica", "promote", "vol", "hostb", "--force")
        assert f"vol: lives at hostb:{there} now (epoch 2)" in done.stdout
        assert "hosta accepts writes as its home until it is contacted" in done.stderr
        (here / "not known").write_bytes(b"acknowledged all the same")
        (there / "new").write_bytes(b"new")
        site.ssh_config.write_text(reached, encoding="utf-8")
        listed = site.voltool("replica", "list")
        assert "1 path was written at hosta meanwhile" in listed.stderr
        assert "not known" in listed.stderr
        assert os.listdir(here) == []
        (copy,) = site.result("retired", "list")["retired"]
        assert (copy["host"], copy["aside"], copy["moved_to"]) == ("hosta", 1, "hostb")
        assert (Path(copy["path"]) / "not known").exists()
        doctor = site.result("doctor", check=False)
        assert [(each["kind"], each["host"]) for each in doctor["findings"]] == [("aside", "hosta")]
