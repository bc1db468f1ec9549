"""Only the volume's home can connect to the host of a lazy replica: it does, and comes back whatever happens."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network import Network
from tests.serving.oneway import OneWay
from tests.serving.rig import await_true


@pytest.fixture
def oneway(tmp_path: Path) -> Iterator[OneWay]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root and FUSE")
    with Network() as network:
        made = OneWay(tmp_path, network)
        with made.site:
            yield made


@pytest.mark.may_skip("FUSE needs root and /dev/fuse")
def test_the_home_connects_to_the_replica_and_comes_back_and_so_it_does_after_a_lazy_move(oneway: OneWay) -> None:
    added = oneway.site.voltool("replica", "add", "--lazy", "vol", "hostb", "--bandwidth", "1", "--path", "direct")
    assert "hostb cannot connect to a host that has its files, so they connect to it: hosta: " in added.stderr
    assert_read_after_cut(oneway)
    assert_read_after_kills(oneway)
    assert oneway.read() == oneway.truth
    await_true(lambda: not oneway.is_mounted())
    oneway.site.voltool("replica", "remove", "vol", "hostb", "--purge")
    assert oneway.left_over() == []
    oneway.await_ended()

    assert "hostb cannot connect to hosta, which connects to it" in oneway.move_paused()
    listed = oneway.listed()
    assert (listed["role"], listed["state"], listed["way"]) == ("home", "lazy home", "reverse")
    assert 0 < listed["missing_bytes"] <= sum(map(len, oneway.truth.values()))
    (oneway.tree(oneway.b) / "new").write_bytes(b"there")
    oneway.kill(oneway.a, "serve")
    oneway.kill(oneway.b, "door")
    oneway.site.voltool("move", "--resume", "vol")
    assert oneway.read() == oneway.truth | {"new": b"there"}
    await_true(lambda: oneway.left_over() == [])


def assert_read_after_cut(oneway: OneWay) -> None:
    """What is read while the cable is pulled comes when it is there again."""
    oneway.a.machine.cut()
    found: list[bytes] = []
    reading = threading.Thread(target=lambda: found.append((oneway.tree(oneway.b) / "f59").read_bytes()))
    reading.start()
    reading.join(0.5)
    assert not found
    oneway.a.machine.mend()
    reading.join()
    assert found == [oneway.truth["f59"]]


def assert_read_after_kills(oneway: OneWay) -> None:
    """Either process is killed and started again, as by its unit, and the port of the door is somebody else's by then."""
    replica, truth = oneway.tree(oneway.b), oneway.truth
    oneway.start(oneway.a, oneway.kill(oneway.a, "serve"))
    assert (replica / "f58").read_bytes() == truth["f58"]
    port = oneway.daemon(oneway.b, "door")[0]["facts"]["port"]
    command = oneway.kill(oneway.b, "door")
    with oneway.taken(oneway.b, int(port)):
        oneway.start(oneway.b, command)
        assert (replica / "f57").read_bytes() == truth["f57"]
        assert oneway.daemon(oneway.b, "door")[0]["facts"]["port"] != port
