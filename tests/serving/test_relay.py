"""A lazy replica without a direct path: its files come through the command line, which sees ciphertext, as long as that runs."""

from __future__ import annotations

import errno
import json
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.core.harness import ForkStream
from tests.filesystems import LoopFilesystem
from tests.hosts import Site
from tests.jobs.apart import DISK, VOLUME, Running
from tests.judge import compare
from tests.network import Network
from tests.serving.conftest import REPLICA, Rack
from tests.serving.rig import LazySite
from voltool.agent.fetching.reaching import first_reached
from voltool.agent.fetching.relaying import listen_tunnel
from voltool.agent.host import HostState
from voltool.agent.path.held import HeldPath
from voltool.errors import BusyError
from voltool.model import SERVING
from voltool.wire.tunnel import ListenTunnel

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


@pytest.fixture
def walled(tmp_path: Path) -> Iterator[Walled]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root and FUSE")
    with Network() as network:
        made = Walled(tmp_path, network)
        with made.site:
            yield made


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[LazySite]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root and FUSE")
    with LoopFilesystem("btrfs", 1 << 30) as filesystem:
        made = LazySite(filesystem.path, "btrfs", monkeypatch)
        made.fill()
        try:
            yield made
        finally:
            made.close()


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
def test_killed_it_keeps_what_it_has_and_sync_goes_on_until_it_is_full(walled: Walled) -> None:
    adding = Running(walled.site, ("replica", "add", "--lazy", "vol", "hostb", "--bandwidth", "1"))
    adding.until_phase("fill")
    replica, truth = walled.tree("hostb"), walled.truth
    for name in ("f3", "large"):
        assert (replica / name).read_bytes() == truth[name]
    assert "only while this command runs" in adding.output
    adding.kill()
    adding.end()
    assert (replica / "f3").read_bytes() == truth["f3"]
    with pytest.raises(OSError, match="Input/output") as failed:
        walled.read()
    assert failed.value.errno == errno.EIO
    walled.configure("".join(f'[hosts.{name}]\ntransport = "openssh"\n' for name in walled.site.hosts))
    syncing = Running(walled.site, ("replica", "sync", "vol", "hostb", "--bandwidth", "0"))
    syncing.reaches("fill")  # or it is full already
    assert walled.read() == truth
    assert syncing.end() == 0, syncing.output
    assert walled.read() == truth
    assert not walled.is_mounted()
    (done,) = json.loads(syncing.output.splitlines()[-1])["synced"]
    assert (done["replica"]["phase"], done["replica"]["missing_bytes"]) == ("serving", 0)
    assert walled.daemons() == []


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
def test_what_passes_the_command_line_is_ciphertext_and_it_ends_when_the_replica_is_full(
    site: LazySite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.rig.dump()
    truth = {path: path.read_bytes() for path in site.volume.rglob("*") if path.is_file() and not path.is_symlink()}
    passed: list[bytes] = []
    read = ForkStream.read

    def recorded(self: ForkStream, limit: int, timeout: float | None = None) -> bytes:
        passed.append(read(self, limit, timeout))
        return passed[-1]

    monkeypatch.setattr(ForkStream, "read", recorded)
    done = site.add("hostB", path="relay")
    assert done.round is not None
    assert (done.round.status.replica.phase, done.round.status.missing_files) == (SERVING, 0)
    assert not compare(site.volume, site.path("hostB"))
    assert site.left_over("local") == []
    site.await_full("hostB")
    seen = b"".join(passed)
    assert len(seen) > sum(map(len, truth.values()))
    assert [path for path, content in truth.items() if len(content) > 64 and content[:64] in seen] == []


@dataclass
class Asking:
    """What `listen_tunnel` needs of a session; the agent of one command line."""

    host: HostState
    replica: object
    path: HeldPath = field(default_factory=HeldPath)

    @property
    def conversation(self) -> Asking:
        return self


def test_one_command_line_at_a_time_carries_the_files_of_a_replica(rack: Rack) -> None:
    replica = SimpleNamespace(record=SimpleNamespace(replica_id=REPLICA))
    first, second = (Asking(rack.asker, replica) for _ in range(2))
    assert listen_tunnel(ListenTunnel(), first).port  # type: ignore[arg-type]
    with pytest.raises(BusyError):
        listen_tunnel(ListenTunnel(), second)  # type: ignore[arg-type]
    assert listen_tunnel(ListenTunnel(), first).port  # type: ignore[arg-type]
    assert first.path.entry is not None
    assert first.path.entry_lock is not None
    first.path.entry.close()
    first.path.entry_lock.release()
    assert listen_tunnel(ListenTunnel(), second).port  # type: ignore[arg-type]
    assert second.path.entry is not None
    second.path.entry.close()


def test_a_host_that_does_not_answer_is_not_waited_for_where_another_one_does(rack: Rack) -> None:
    there = rack.serve("there", {"f": b"content"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        mute = replace(there, host="mute", port=port)
        assert first_reached(rack.pool(mute, there), 600.0) == ("there", {})
    host, faults = first_reached(rack.pool(mute), 600.0)
    assert (host, list(faults)) == ("", ["mute"])
