"""Only the volume's home can connect to the host of a lazy replica: it does, and comes back whatever happens."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.network import Network
from tests.serving.conftest import REPLICA, Rack, got
from tests.serving.oneway import OneWay
from tests.serving.rig import await_true
from voltool.agent.door.book import end_door, open_door
from voltool.agent.door.ringing import guests, take_link
from voltool.agent.fetching.keys import drop_identity, kept_identity, serving_purpose
from voltool.agent.path.joining import join
from voltool.errors import UnreachableError
from voltool.wire.doors import Door, OpenDoor, encode_preamble

FILES = {f"dir{number % 7}/file{number}": b"%d " % number * (number % 300 + 1) for number in range(300)}


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


@pytest.fixture
def door(rack: Rack) -> Iterator[Door]:
    """That of the asker, to which the host ``home`` may come."""
    home = kept_identity(rack.host("home"), serving_purpose(REPLICA)).certificate
    opened = open_door(OpenDoor(REPLICA, (home,)), None, rack.asker).door  # type: ignore[arg-type]
    yield replace(opened, addresses=("127.0.0.1",))
    end_door(rack.asker, REPLICA)


def test_strangers_at_the_door_get_nothing_and_keep_nobody_out(rack: Rack, door: Door) -> None:
    mine, theirs = kept_identity(rack.asker, REPLICA), kept_identity(rack.host("home"), serving_purpose(REPLICA))
    directory = rack.asker.directory
    with pytest.raises(UnreachableError, match="has not come"):
        take_link(directory, REPLICA, mine, theirs.certificate, 1)
    silent = [socket.create_connection(("127.0.0.1", door.port)) for _number in range(80)]
    thief = socket.create_connection(("127.0.0.1", door.port))
    thief.settimeout(20)
    thief.sendall(encode_preamble(b"t" * 32))
    assert thief.recv(1) == b""
    with pytest.raises(UnreachableError):
        join(kept_identity(rack.host("other"), REPLICA), mine.certificate, door.addresses, door.port, b"", 1)
    assert guests(directory, REPLICA, 0) == ()
    source = rack.serve("home", FILES)
    rack.again("home", door)
    assert guests(directory, REPLICA, 20) == (theirs.certificate,)
    assert got(rack.pool(replace(source, comes=True)), FILES) == FILES
    for connection in (*silent, thief):
        connection.close()


def test_who_comes_with_a_stolen_ticket_is_not_let_in(rack: Rack, door: Door) -> None:
    """The guest itself is at the door; the connection that it is asked for is made by somebody else."""
    mine, theirs = kept_identity(rack.asker, REPLICA), kept_identity(rack.host("home"), serving_purpose(REPLICA))
    thief = kept_identity(rack.host("thief"), REPLICA)
    with contextlib.closing(join(theirs, mine.certificate, door.addresses, door.port, b"", 10)) as guest:

        def steal() -> None:
            preamble = encode_preamble(guest.receive().ticket)
            with contextlib.suppress(UnreachableError):
                join(thief, mine.certificate, door.addresses, door.port, b"", 1, preamble=preamble).close()

        stealing = threading.Thread(target=steal)
        stealing.start()
        with pytest.raises(UnreachableError, match="was not let in"):
            take_link(rack.asker.directory, REPLICA, mine, theirs.certificate, 10)
        stealing.join()


def test_without_its_key_nobody_waits_at_the_door_any_more(rack: Rack, door: Door) -> None:
    drop_identity(rack.asker, REPLICA)
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            socket.create_connection(("127.0.0.1", door.port)).close()
            time.sleep(0.05)
    await_true(lambda: list((rack.directory / "state-asker/daemons").iterdir()) == [])
    with pytest.raises(UnreachableError, match="nobody waits"):
        guests(rack.asker.directory, REPLICA, 0)
