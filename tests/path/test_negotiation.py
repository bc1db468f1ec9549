"""Which way the data takes between two hosts that a firewall may stand between, and what is said of it.

The hosts are network namespaces; the agents are forked from the test and put into them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core.harness import ForkHosts, Recorder
from tests.network import Machine, Network
from voltool.agent.path import identity, negotiation
from voltool.errors import HostError, UnreachableError, UsageError
from voltool.remote import paths
from voltool.remote.paths import AUTO, DIRECT, RELAY, check_mode, open_path
from voltool.remote.session import AgentSession
from voltool.wire import messages
from voltool.wire.conversation import expect
from voltool.wire.paths import ClosePath, JoinPath, ListenForPath, PathListening, PathPrepared, PathState, PreparePath

PORTS = {"here": "50000-50010", "there": "51000-51010"}


class Hosts:
    """Two machines with a forked agent on each; ``inject`` is called in both first."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.machines = {name: network.add(name, directory) for name in PORTS}
        self.directory = directory
        self.reporter = Recorder()
        self.inject: Callable[[], object] = lambda: None

    def connect(self, name: str) -> ForkHosts:
        def enter() -> None:
            _set_namespace(self.machines[name])
            self.inject()

        return ForkHosts(self.directory / f"state-{name}", self.reporter, enter)

    def open(self, mode: str) -> bool:
        with self.connect("here").connect("here") as here, self.connect("there").connect("there") as there:
            here.ports, there.ports = PORTS["here"], PORTS["there"]
            direct = open_path(here, there, mode, self.reporter, "vol")
            assert_ready(here, there)
            return direct

    def block(self, name: str, other: str) -> None:
        """``name`` may not open connections to the ports of ``other``."""
        self.machines[name].run("ip", "rule", "add", "ipproto", "tcp", "dport", PORTS[other], "prohibit")

    def mend(self) -> None:
        for machine in self.machines.values():
            while not subprocess.run(
                [*machine.enter, "ip", "rule", "delete", "ipproto", "tcp", "prohibit"], check=False, capture_output=True
            ).returncode:
                pass


def _set_namespace(machine: Machine) -> None:
    (pid,) = (word.split("=")[1] for word in machine.enter if word.startswith("--target="))
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    assert ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) == 0
    os.close(descriptor)


def assert_ready(*agents: AgentSession) -> None:
    """They wait for their next request."""
    for agent in agents:
        agent.send(ClosePath())
        expect(agent, messages.Done)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Network() as network:
        yield Hosts(network, tmp_path_factory.mktemp("hosts"))


@pytest.fixture
def hosts(network: Hosts) -> Iterator[Hosts]:
    network.reporter.events.clear()
    network.inject = lambda: None
    yield network
    network.mend()


def test_a_direct_path_is_taken_without_a_word(hosts: Hosts) -> None:
    assert hosts.open(AUTO)
    assert hosts.open(DIRECT)
    assert hosts.reporter.notices() == []


def test_where_the_target_cannot_be_reached_it_connects_itself(hosts: Hosts) -> None:
    hosts.block("here", "there")
    assert hosts.open(DIRECT)
    assert hosts.reporter.notices() == []


def test_where_neither_can_be_reached_the_relay_is_taken_and_the_reasons_are_told(hosts: Hosts) -> None:
    hosts.block("here", "there")
    hosts.block("there", "here")
    assert not hosts.open(AUTO)
    (said,) = hosts.reporter.notices()
    assert "through this machine" in said
    assert "from here to there: port 510" in said
    assert "from there to here: port 500" in said
    assert "Permission denied" in said
    with pytest.raises(UnreachableError, match="no direct path") as refused:
        hosts.open(DIRECT)
    assert "ports = " in refused.value.remedy
    assert "--path relay" in refused.value.remedy


def test_a_host_that_answers_nothing_costs_seconds_only(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_PATIENCE", 0.3)
    hosts.machines["there"].run("ip", "neighbour", "replace", hosts.machines["here"].address, "lladdr",
                                "02:00:00:00:00:99", "nud", "permanent", "dev", "eth0")  # fmt: skip
    assert not hosts.open(AUTO)
    (said,) = hosts.reporter.notices()
    assert said.count("no answer in time") >= 2
    hosts.machines["there"].run("ip", "neighbour", "delete", hosts.machines["here"].address, "dev", "eth0")


def test_the_relay_is_taken_without_trying_where_that_is_wished(hosts: Hosts) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("a path was prepared")

    hosts.inject = lambda: setattr(negotiation, "prepare_path", refuse)
    assert not hosts.open(RELAY)
    assert hosts.reporter.notices() == []


def test_a_host_that_can_make_no_key_is_named(hosts: Hosts) -> None:
    def fail() -> identity.Identity:
        raise HostError("no key pair can be made on this host", why="no libcrypto", remedy="install openssl")

    hosts.inject = lambda: setattr(identity, "make_identity", fail)
    assert not hosts.open(AUTO)
    assert "here: no key pair can be made on this host: no libcrypto; install openssl" in hosts.reporter.notices()[0]


def test_a_host_that_does_not_know_its_address_is_reached_by_the_one_that_the_command_line_uses(
    hosts: Hosts,
) -> None:
    from voltool.agent.path import listening

    hosts.inject = lambda: setattr(listening, "own_addresses", lambda _environment, **_how: ["192.0.2.99"])
    assert not hosts.open(AUTO)
    with hosts.connect("here").connect("here") as here, hosts.connect("there").connect("there") as there:
        here.address = there.address = lambda: hosts.machines["there"].address
        assert open_path(here, there, DIRECT, hosts.reporter, "vol")


def test_a_port_range_that_is_taken_or_nonsense_is_told(hosts: Hosts) -> None:
    with hosts.connect("here").connect("here") as here, hosts.connect("there").connect("there") as there:
        here.ports, there.ports = "9-5", "9-5"
        assert not open_path(here, there, AUTO, hosts.reporter, "vol")
    assert "no range of ports" in hosts.reporter.notices()[0]


def test_a_path_begun_anew_replaces_the_old_one(hosts: Hosts) -> None:
    with hosts.connect("here").connect("here") as here, hosts.connect("there").connect("there") as there:
        for _each in range(2):
            assert open_path(here, there, DIRECT, hosts.reporter, "vol")


def test_one_who_has_prepared_nothing_is_answered_all_the_same(hosts: Hosts) -> None:
    with hosts.connect("here").connect("here") as here:
        here.send(ListenForPath(b"", b""))
        assert expect(here, PathListening).port == 0
        here.send(JoinPath(b"", b"", (), 1, 0.1))
        assert expect(here, PathState).why
        here.send(PreparePath())
        assert expect(here, PathPrepared).certificate
        here.send(ListenForPath(b"no certificate", b""))
        assert "certificate" in expect(here, PathListening).why
        assert_ready(here)


def test_there_are_three_modes() -> None:
    assert [check_mode(mode) for mode in (AUTO, DIRECT, RELAY)] == list(paths.MODES)
    with pytest.raises(UsageError, match="no path 'sideways'"):
        check_mode("sideways")
