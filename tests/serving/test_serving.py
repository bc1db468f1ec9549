"""A host serves files to one lazy replica: real processes, real connections; whatever else happens to them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.serving.conftest import REPLICA, Cutter, Rack, got
from voltool.agent.daemon import started_at
from voltool.agent.fetching.keys import drop_identity, serving_purpose
from voltool.agent.fetching.served import end_serving
from voltool.agent.lazy.sources import Wanted
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import HostError, NotFoundError, UnreachableError

FILES = {f"dir{number % 7}/file{number}": b"%d " % number * (number % 300 + 1) for number in range(2000)}


def test_many_files_come_from_one_host_in_few_requests_and_the_second_time_from_a_process_that_still_runs(
    rack: Rack,
) -> None:
    source = rack.serve("home", FILES)
    pid = rack.daemon("home").running()
    pool = rack.pool(source)
    assert got(pool, FILES) == FILES
    assert rack.again("home") == source
    assert rack.daemon("home").running() == pid
    assert got(pool, FILES) == FILES


def test_what_is_asked_for_in_parts_is_right_and_what_is_no_regular_file_is_missing(rack: Rack) -> None:
    large = os.urandom(3_500_000)
    source = rack.serve("home", {"large": large, "other/file": b"x"})
    tree = rack.directory / "home"
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("large")
    (tree / "way").symlink_to("other")
    (rack.directory / "secret").write_bytes(b"s" * 10)
    wanted = [Wanted(b"large", at, min(1 << 20, len(large) - at)) for at in range(0, len(large), 1 << 20)]
    pool = rack.pool(source)
    with contextlib.closing(pool.fetcher()) as fetcher:
        pieces = {wanted[answer.index].offset: answer for answer in fetcher.fetch(wanted, lambda _i, _d: True)}
    assert b"".join(pieces[at].data for at in sorted(pieces)) == large  # type: ignore[union-attr]
    refused = dict.fromkeys(("fifo", "link", "way/file", "../secret", "other", "none", "other/../large"), b"s" * 10)
    assert got(pool, refused) == dict.fromkeys(refused)


def test_the_first_source_dies_and_the_other_takes_over(rack: Rack) -> None:
    pool = rack.pool(rack.serve("first", FILES), rack.serve("second", FILES))
    names = list(FILES)
    wanted = [Wanted(os.fsencode(name), 0, len(FILES[name])) for name in names] * 5
    found = 0
    with contextlib.closing(pool.fetcher()) as fetcher:
        for answer in fetcher.fetch(wanted, lambda index, data: data == FILES[names[index % len(names)]]):
            assert wanted[answer.index].length == len(answer.data)  # type: ignore[union-attr]
            found += 1
            if found == 100:
                rack.kill("first")
    assert found == len(wanted)
    assert list(pool.faults()) == ["first"]


def test_a_source_that_lacks_a_file_or_has_other_bytes_is_passed_over(rack: Rack) -> None:
    wrong = {**FILES, "dir1/file1": b"?" * len(FILES["dir1/file1"]), "dir2/file2": b"short"}
    del wrong["dir3/file3"]
    pool = rack.pool(rack.serve("other", wrong), rack.serve("home", FILES))
    assert got(pool, FILES) == FILES
    only = rack.pool(rack.again("other"))
    assert [name for name, data in got(only, FILES).items() if data is None] == [
        "dir1/file1",
        "dir2/file2",
        "dir3/file3",
    ]


def test_nobody_else_gets_anything_and_who_says_nothing_blocks_nobody(rack: Rack) -> None:
    source = rack.serve("home", FILES)
    silent = [socket.create_connection(("127.0.0.1", source.port)) for _number in range(40)]
    assert got(rack.pool(source), FILES) == FILES
    drop_identity(rack.asker, REPLICA)  # another key pair
    with pytest.raises(UnreachableError):
        got(rack.pool(source, timeout=1), FILES)
    for connection in silent:
        connection.close()


def test_killed_it_is_unreachable_and_comes_back_at_the_same_port(rack: Rack) -> None:
    source = rack.serve("home", FILES)
    pool = rack.pool(source, timeout=20)
    fetcher = pool.fetcher()
    wanted = [Wanted(b"dir1/file1", 0, len(FILES["dir1/file1"]))]
    assert len(list(fetcher.fetch(wanted, lambda _i, _d: True))) == 1
    rack.kill("home")
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.extend(fetcher.fetch(wanted, lambda _i, _d: True)))
    waiting.start()
    time.sleep(0.3)
    assert not found
    assert rack.again("home") == source
    waiting.join()
    fetcher.close()
    assert found[0].data == FILES["dir1/file1"]


def test_a_hung_source_is_passed_over_and_closing_ends_who_waits(rack: Rack) -> None:
    hung, source = rack.serve("hung", FILES), rack.serve("home", FILES)
    waiting, passing = rack.pool(hung, timeout=60).fetcher(), rack.pool(hung, source, timeout=2)
    wanted = [Wanted(b"dir1/file1", 0, len(FILES["dir1/file1"]))]
    assert len(list(waiting.fetch(wanted, lambda _i, _d: True))) == 1
    process = rack.daemon("hung").running()
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    assert got(passing, FILES) == FILES
    threading.Timer(0.3, waiting.close).start()
    with pytest.raises(UnreachableError):
        list(waiting.fetch(wanted, lambda _i, _d: True))
    os.kill(process.pid, signal.SIGCONT)


def test_when_its_tree_is_gone_it_ends_and_takes_its_key_along(rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    rack.serve("home", FILES)
    keys = rack.directory / "state-home/keys"
    assert [path.name for path in keys.iterdir()] == [serving_purpose(REPLICA) + ".pem"]
    assert (keys / f"{serving_purpose(REPLICA)}.pem").stat().st_mode & 0o077 == 0
    rack.kill("home")
    (rack.directory / "home").rename(rack.directory / "not mounted")
    with pytest.raises(HostError):
        rack.again("home")
    assert len(list(keys.iterdir())) == 1  # it may come back
    ReplicaBook(rack.host("home").directory).remove("a" * 32)
    with pytest.raises(NotFoundError):
        rack.again("home")
    running = rack.daemon("home")
    monkeypatch.setattr("voltool.agent.daemon._START", 1.5)
    with running.controlled(), pytest.raises(HostError):
        running.start("as a unit would after a reboot")
    assert list(keys.iterdir()) == []
    assert running.wishes() is None


def test_stopped_nothing_of_it_is_left(rack: Rack) -> None:
    rack.serve("home", FILES)
    running = rack.daemon("home").running()
    assert running is not None
    host = rack.host("home")
    end_serving(host, REPLICA)
    assert started_at(running.pid) != running.started
    for left in ("daemons", "keys"):
        assert list((rack.directory / "state-home" / left).iterdir()) == []
    end_serving(host, REPLICA)


def test_a_connection_that_is_cut_is_made_again_for_what_is_owed(rack: Rack) -> None:
    source = rack.serve("home", FILES)
    with Cutter(source.port) as cutter:
        pool = rack.pool(replace(source, port=cutter.port), timeout=20)
        names, found = list(FILES), 0
        wanted = [Wanted(os.fsencode(name), 0, len(FILES[name])) for name in names]
        with contextlib.closing(pool.fetcher()) as fetcher:
            for answer in fetcher.fetch(wanted, lambda index, data: data == FILES[names[index]]):
                assert wanted[answer.index].length == len(answer.data)  # type: ignore[union-attr]
                found += 1
                if found in (50, 900):
                    cutter.cut()
        assert found == len(wanted)
        assert cutter.made >= 3
