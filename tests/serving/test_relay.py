"""A lazy replica without a direct path: its files come through the command line, which sees ciphertext, as long as that runs."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import Site
from tests.jobs.apart import DISK, VOLUME, Running
from tests.network import Network

FILES = 60
_WORD = b"what nobody on the way may read "


class Walled:
    """``hosta`` with the volume ``vol``, and ``hostb``: the command line reaches both, they do not reach each other."""

    def __init__(self, directory: Path, network: Network) -> None:
        self.site = Site(directory / "site", network)
        self.hosts = [self.site.add_host(name) for name in ("hosta", "hostb")]
        for host, other in (self.hosts, self.hosts[::-1]):
            host.machine.mount("btrfs", DISK)
            host.machine.run("ip", "route", "add", "unreachable", f"{other.machine.address}/32")
        volume = self.tree("hosta")
        self.hosts[0].machine.run("btrfs", "-q", "subvolume", "create", VOLUME)
        generator = random.Random(3)
        self.truth = {f"f{number}": _WORD * 100 + generator.randbytes(20_000) for number in range(FILES)}
        self.truth["large"] = _WORD * 200_000
        for name, content in self.truth.items():
            (volume / name).write_bytes(content)
        self.configure("")
        self.site.voltool("volume", "add", "vol", f"hosta:{VOLUME}")

    def tree(self, name: str) -> Path:
        return self.site.hosts[name].machine.outside(VOLUME)

    def read(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.tree("hostb").iterdir()}

    def configure(self, lines: str) -> None:
        config = self.site.home / ".config/voltool/config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(f"fetch_timeout = 2\n{lines}\n")

    def daemons(self) -> list[str]:
        """What is written down of processes that serve or fill."""
        return [path.name for host in self.hosts for path in (host.state / "daemons").glob("*.json")]

    def is_mounted(self) -> bool:
        return any("voltool-lazy" in line for line in self.site.hosts["hostb"].machine.mounts())

    def replica(self) -> dict[str, Any]:
        done = self.site.result("replica", "list", "vol", check=False)
        assert "replicas" in done, done
        (found,) = done["replicas"]
        return dict(found)


@pytest.fixture
def walled(tmp_path: Path) -> Iterator[Walled]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root and FUSE")
    with Network() as network:
        made = Walled(tmp_path, network)
        with made.site:
            yield made


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
def test_killed_it_keeps_what_it_has_and_sync_goes_on_until_it_is_full(walled: Walled) -> None:
    adding = Running(walled.site, ("replica", "add", "--lazy", "vol", "hostb", "--bandwidth", "1"))
    adding.until_phase("fill")
    replica, truth = walled.tree("hostb"), walled.truth
    for name in ("f3", "large"):
        assert (replica / name).read_bytes() == truth[name]
    assert "only while this command runs" in adding.output
    assert walled.replica()["missing_bytes"] > 0
    adding.kill()
    adding.end()
    assert (replica / "f3").read_bytes() == truth["f3"]
    with pytest.raises(OSError, match="Input/output") as failed:
        walled.read()
    assert failed.value.errno == errno.EIO
    walled.configure('transport = "openssh"')
    syncing = Running(walled.site, ("replica", "sync", "vol", "hostb"))
    syncing.until_phase("fill")
    assert walled.read() == truth
    assert syncing.end() == 0, syncing.output
    assert walled.read() == truth
    assert not walled.is_mounted()
    found = walled.replica()
    assert (found["phase"], found["missing_bytes"]) == ("serving", 0)
    assert walled.daemons() == []
