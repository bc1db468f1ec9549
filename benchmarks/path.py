"""The direct path against what it stands on and what it replaces, side by side in one run. ``python -m benchmarks.path``

- the bare TLS socket: two Python processes, one `sendall`s a buffer, the other `recv_into`s one;
- the link (`voltool.agent.path.link`), and two of them at once, as striping would have them: two processes send, two threads
  of one process receive;
- the relay: two SSH connections (paramiko, as voltool opens them) and this process between them.

Each contender runs in each round, one after the other; medians are taken. CPU seconds a GB of sender and receiver stand beside
them, which say more on a machine that others use too. ``--namespaces`` (root) puts the receiver behind a pair of veth devices.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import Site
from tests.network import Network
from voltool.agent.path.identity import make_identity
from voltool.agent.path.joining import join
from voltool.agent.path.link import Link
from voltool.agent.path.listening import Listener
from voltool.events import Silent
from voltool.ssh.connection import SshSettings, connect

_BLOCK = 1 << 20
_TOKEN = b"t" * 32
_READ = 64 << 10

Enter = Callable[[], None]


@dataclass(frozen=True)
class Run:
    """Bytes a second, and CPU seconds a GB of the sender and of the receiver (nan: not known)."""

    speed: float
    sender: float = float("nan")
    receiver: float = float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.path", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=2048, help="what each run sends")
    parser.add_argument("--namespaces", action="store_true")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        enter, address = _behind_a_cable(stack) if options.namespaces else (_stay, "127.0.0.1")
        contenders: dict[str, Callable[[], Run]] = {
            "bare TLS socket": lambda: _linked(1, options.mib, enter, address, _send_bare, _receive_bare),
            "link": lambda: _linked(1, options.mib, enter, address, _send, _receive),
            "two links": lambda: _linked(2, options.mib, enter, address, _send, _receive),
        }
        if not options.namespaces:
            relay = stack.enter_context(_relay(options.mib))
            contenders["relay over SSH"] = relay
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        for _round in range(options.rounds):
            for name, contend in contenders.items():
                runs[name].append(contend())
    _show(runs)
    return 0


def _show(runs: dict[str, list[Run]]) -> None:
    bare = statistics.median(run.speed for run in runs["bare TLS socket"])
    print(f"{'':18}{'MB/s':>8}{'ratio':>8}{'sender':>10}{'receiver':>10}   (CPU s/GB)")
    for name, measured in runs.items():
        speed = statistics.median(run.speed for run in measured)
        sender, receiver = (statistics.median(getattr(run, end) for run in measured) for end in ("sender", "receiver"))
        print(f"{name:18}{speed / 1e6:8.0f}{speed / bare:8.2f}{sender:10.2f}{receiver:10.2f}")


# -------------------------------------------------------------------------------------------------------------- links


def _linked(
    count: int,
    mib: int,
    enter: Enter,
    address: str,
    send: Callable[[Link, int], None],
    receive: Callable[[Link, int], None],
) -> Run:
    """``count`` links at once, each for its part; the receiver is a process of its own, ``enter`` puts it where it listens."""
    here, there = make_identity(), make_identity()
    port_read, port_write = os.pipe()
    report_read, report_write = os.pipe()
    receiver = os.fork()
    if not receiver:
        try:
            enter()
            listener = Listener(there, [here.certificate], token=_TOKEN, links=count)
            os.write(port_write, str(listener.port).encode())
            links = [listener.accept(30) for _each in range(count)]
            began = _cpu()
            _in_threads([lambda link=link: receive(link, mib // count) for link in links])  # type: ignore[misc]
            os.write(report_write, str(_cpu() - began).encode())
        finally:
            os._exit(0)
    port = int(os.read(port_read, 16))
    links = [join(here, there.certificate, [address], port, _TOKEN, 30) for _each in range(count)]
    before, clock = _cpu(resource.RUSAGE_CHILDREN), time.perf_counter()
    senders = [_forked(lambda link=link: send(link, mib // count)) for link in links]  # type: ignore[misc]
    received = float(os.read(report_read, 64))
    seconds = time.perf_counter() - clock
    for pid in senders:
        os.waitpid(pid, 0)
    sent = _cpu(resource.RUSAGE_CHILDREN) - before
    os.waitpid(receiver, 0)
    for link in links:
        link.close()
    for descriptor in (port_read, port_write, report_read, report_write):
        os.close(descriptor)
    amount = mib * _BLOCK
    return Run(amount / seconds, sent / amount * 1e9, received / amount * 1e9)


def _send_bare(link: Link, mib: int) -> None:
    block = os.urandom(_BLOCK)
    for _each in range(mib):
        link._connection.sendall(block)  # noqa: SLF001 - what a link stands on


def _receive_bare(link: Link, mib: int) -> None:
    buffer, left = bytearray(_READ), mib * _BLOCK
    while left:
        left -= link._connection.recv_into(buffer)  # noqa: SLF001


def _send(link: Link, mib: int) -> None:
    block = os.urandom(_BLOCK)
    for _each in range(mib):
        link.send_data(block)


def _receive(link: Link, mib: int) -> None:
    left = mib * _BLOCK
    while left:
        left -= len(link.receive())


def _forked(act: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        try:
            act()
        finally:
            os._exit(0)
    return pid


def _stay() -> None:
    """Where we are."""


def _in_threads(acts: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _cpu(whose: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def _behind_a_cable(stack: contextlib.ExitStack) -> tuple[Enter, str]:
    """Let this process be where the command line of a `Network` is; how another one gets to a machine there, and its address."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    network = stack.enter_context(Network())
    machine = network.add("receiver", directory)
    _set_namespace(network.enter)
    return lambda: _set_namespace(machine.enter), machine.address


def _set_namespace(enter: Sequence[str]) -> None:
    (pid,) = (word.split("=")[1] for word in enter if word.startswith("--target="))
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(descriptor)


# -------------------------------------------------------------------------------------------------------------- relay


@contextlib.contextmanager
def _relay(mib: int) -> Iterator[Callable[[], Run]]:
    with tempfile.TemporaryDirectory() as directory, Site(Path(directory)) as site:
        for name in ("hosta", "hostb"):
            site.add_host(name)
        settings = SshSettings(Silent(), 20.0, str(site.ssh_config))

        def run() -> Run:
            source = connect("hosta", settings).run(f"head -c {mib * _BLOCK} /dev/zero")
            sink = connect("hostb", settings).run("cat >/dev/null; echo")
            clock, amount = time.perf_counter(), 0
            while data := source.read(_BLOCK):
                amount += len(data)
                sink.write(data)
            seconds = time.perf_counter() - clock
            source.close()
            sink.close()
            assert amount == mib * _BLOCK
            return Run(amount / seconds)

        yield run


if __name__ == "__main__":
    sys.exit(main())
