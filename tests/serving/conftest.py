"""A host's state directory, real serving processes on it, and pools that ask them over real direct paths."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from voltool.agent import daemon as daemons
from voltool.agent.daemon import Daemon, list_daemons
from voltool.agent.fetching.keys import kept_identity
from voltool.agent.fetching.pool import Pool
from voltool.agent.fetching.reaching import make_pool
from voltool.agent.fetching.served import end_serving, serve_files
from voltool.agent.host import HostState, find_host_state
from voltool.agent.lazy.sources import Missing, Wanted
from voltool.agent.replica.records import ReplicaBook
from voltool.model import SERVING, Peer, ReplicaRecord
from voltool.remote.ship import build_agent
from voltool.wire.doors import Door
from voltool.wire.replicas import FetchSource
from voltool.wire.serving import ServeFiles

REPLICA = "0f" * 16


class Rack:
    """Hosts on this machine, each with a state directory of its own and a full replica of a volume that it can serve."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        program = directory / "agent.pyz"
        program.write_bytes(build_agent().data)
        monkeypatch.setattr(daemons, "_own_program", lambda: os.fsencode(program))
        self.asker = self.host("asker")
        self.hosts: list[HostState] = []

    def host(self, name: str) -> HostState:
        state = self.directory / f"state-{name}"
        return find_host_state({"VOLTOOL_STATE_DIR": str(state)}, os.geteuid())

    def serve(self, name: str, files: Mapping[str, bytes]) -> FetchSource:
        """A host begins to serve a tree of these files."""
        host = self.host(name)
        self.hosts.append(host)
        tree = self.directory / name
        for path, content in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        home = Peer("home", "", "", b"/srv")
        record = ReplicaRecord(name.encode().hex() * 4, "a" * 32, "vol", os.fsencode(tree), home, SERVING, 1)
        ReplicaBook(host.directory).save(record)
        return self.again(name)

    def again(self, name: str, door: Door | None = None) -> FetchSource:
        """What `replica sync` asks of the host."""
        peer = kept_identity(self.asker, REPLICA).certificate
        request = ServeFiles("a" * 32, REPLICA, "replica", peer, door=door)
        served = serve_files(request, None, self.host(name))  # type: ignore[arg-type]
        return FetchSource(name, ("127.0.0.1",), served.port, served.certificate)

    def daemon(self, name: str) -> Daemon:
        return Daemon(self.host(name).directory, "serve", REPLICA)

    def kill(self, name: str) -> None:
        running = self.daemon(name).running()
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        while self.daemon(name).running() is not None:
            time.sleep(0.01)

    def pool(self, *sources: FetchSource, timeout: float = 10.0) -> Pool:
        return make_pool(self.asker, REPLICA, sources, timeout)

    def stop(self) -> None:
        for host in self.hosts:
            for found in list_daemons(host.directory):
                with contextlib.suppress(Exception):
                    found.remove()
            end_serving(host, REPLICA)


class Cutter:
    """A way to a port of this machine that can be cut: what is on its way is lost, as by a router that forgets a connection."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]
        self.made = 0

    def __enter__(self) -> Cutter:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_about: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _address = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                self.made += 1
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    one.close()


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rack]:
    made = Rack(tmp_path, monkeypatch)
    try:
        yield made
    finally:
        made.stop()


def got(pool: Pool, files: Mapping[str, bytes]) -> dict[str, bytes | None]:
    """What a fetcher brings of whole files; None for what is missing. Bytes that are not those of ``files`` are wrong."""
    names = list(files)
    fetcher = pool.fetcher()
    wanted = [Wanted(os.fsencode(name), 0, len(files[name])) for name in names]
    found: dict[str, bytes | None] = {}
    try:
        for answer in fetcher.fetch(wanted, lambda index, data: data == files[names[index]]):
            found[names[answer.index]] = None if isinstance(answer, Missing) else answer.data
    finally:
        fetcher.close()
    return found
