"""The direct path itself, over the loopback: who gets in, who does not, and what a broken one does."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.writer import wait_until
from voltool.agent.path import identity as identities
from voltool.agent.path.addresses import is_candidate, own_addresses
from voltool.agent.path.contexts import client_context
from voltool.agent.path.identity import Identity, load_identity, make_identity, save_identity
from voltool.agent.path.joining import join
from voltool.agent.path.libcrypto import LibcryptoError
from voltool.agent.path.link import Link
from voltool.agent.path.listening import Listener, parse_ports
from voltool.errors import EXIT_UNREACHABLE, HostError, PathBrokenError, UnreachableError, UsageError
from voltool.wire import messages

TOKEN = b"t" * 32


@pytest.fixture(scope="module")
def here() -> Identity:
    return make_identity()


@pytest.fixture(scope="module")
def there() -> Identity:
    return make_identity()


@contextlib.contextmanager
def listening(own: Identity, peer: Identity, **settings: float) -> Iterator[Listener]:
    listener = Listener(own, [peer.certificate], token=TOKEN, **settings)  # type: ignore[arg-type]
    try:
        yield listener
    finally:
        listener.close()


def come(listener: Listener, own: Identity, peer: Identity, token: bytes = TOKEN, timeout: float = 30.0) -> Link:
    return join(own, peer.certificate, ["127.0.0.1"], listener.port, token, timeout)


@pytest.fixture
def links(here: Identity, there: Identity) -> Iterator[tuple[Link, Link]]:
    with listening(here, there) as listener:
        joined = come(listener, there, here)
        accepted = listener.accept(5)
    with contextlib.closing(joined), contextlib.closing(accepted):
        yield joined, accepted


def by_the_command(monkeypatch: pytest.MonkeyPatch) -> Identity:
    def fail() -> tuple[bytes, bytes]:
        raise LibcryptoError("not here")

    monkeypatch.setattr(identities, "make_key_and_certificate", fail)
    return make_identity()


def test_what_is_sent_arrives_both_ways(links: tuple[Link, Link]) -> None:
    joined, accepted = links
    large = os.urandom((2 << 20) + 5)

    def send() -> None:
        joined.send_data(large)
        joined.send(messages.EndOfData())

    sender = threading.Thread(target=send)
    sender.start()
    pieces = []
    while isinstance(piece := accepted.receive(), bytes):
        pieces.append(piece)
    sender.join()
    assert b"".join(pieces) == large
    assert piece == messages.EndOfData()
    accepted.send(messages.Done())
    assert joined.receive(5.0) == messages.Done()


def test_identities_made_by_the_command_work_as_well(here: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    other = by_the_command(monkeypatch)
    with listening(here, other) as listener, contextlib.closing(come(listener, other, here)) as joined:
        joined.send(messages.Done())
        with contextlib.closing(listener.accept(5)) as accepted:
            assert accepted.receive(5.0) == messages.Done()


def test_a_host_without_any_means_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError) as caught:
        by_the_command(monkeypatch)
    assert "openssl" in caught.value.remedy


def test_a_kept_identity_is_the_same_one_and_private(here: Identity, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "key")
    save_identity(here, path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert load_identity(path) == here
    assert "PRIVATE" not in repr(here)
    os.chmod(path, 0o640)
    with pytest.raises(HostError):
        load_identity(path)
    os.chmod(path, 0o600)
    Path(os.fsdecode(path)).write_bytes(here.pem()[:100])
    with pytest.raises(HostError):
        load_identity(path)


def test_who_shows_another_certificate_is_not_let_in(here: Identity, there: Identity) -> None:
    stranger = make_identity()
    with listening(here, there) as listener:
        with pytest.raises(UnreachableError):
            come(listener, stranger, here)
        with contextlib.closing(come(listener, there, here)):
            accepted = listener.accept(5)
            assert accepted.peer == there.certificate
            accepted.close()


def test_who_listens_with_another_certificate_never_hears_the_token(here: Identity, there: Identity) -> None:
    heard = []
    server = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with Path("/dev/shm/voltool-test-key").open("wb") as file:
        file.write(make_identity().pem())
    context.load_cert_chain(file.name)
    os.unlink(file.name)

    def impersonate() -> None:
        raw, _address = server.accept()
        with contextlib.suppress(OSError):
            heard.append(context.wrap_socket(raw, server_side=True).recv(100))

    impostor = threading.Thread(target=impersonate)
    impostor.start()
    with pytest.raises(UnreachableError, match=r"who answers is not the other host"):
        join(there, here.certificate, ["127.0.0.1"], server.getsockname()[1], TOKEN, 5.0)
    impostor.join()
    server.close()
    assert heard in ([], [b""])


@pytest.mark.parametrize("token", [b"", b"s" * 32, TOKEN[:-1], TOKEN + b"t"])
def test_the_right_certificate_without_the_token_gets_nothing(here: Identity, there: Identity, token: bytes) -> None:
    with listening(here, there, patience=1.0) as listener:
        if token != TOKEN + b"t":  # what follows the token would be taken for a frame, and is none
            with pytest.raises(UnreachableError):
                come(listener, there, here, token)
            with pytest.raises(PathBrokenError):
                listener.accept(0)
        with contextlib.closing(come(listener, there, here)):
            listener.accept(5).close()


def test_strangers_get_no_byte_and_keep_nobody_out(here: Identity, there: Identity) -> None:
    with listening(here, there) as listener, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", listener.port)
        silent = [stack.enter_context(socket.create_connection(address)) for _each in range(150)]
        scanner = stack.enter_context(socket.create_connection(address))
        scanner.sendall(b"GET / HTTP/1.0\r\n\r\n")
        without = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        without.check_hostname, without.verify_mode = False, ssl.CERT_NONE
        nobody = stack.enter_context(without.wrap_socket(socket.create_connection(address)))
        with pytest.raises(OSError):  # noqa: PT011 - whatever says that it was not let in
            assert nobody.recv(1) == b"never"
        with contextlib.closing(come(listener, there, here)) as joined:
            joined.send(messages.Done())
            with contextlib.closing(listener.accept(5)) as accepted:
                assert accepted.receive(5.0) == messages.Done()
        listener.close()
        for each in (*silent, scanner):
            each.settimeout(30.0)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := each.recv(1000):
                    answer += piece
            assert len(answer) <= 7, "a TLS alert at the most"
        wait_until(lambda: threading.active_count() < 20)


def test_the_port_is_closed_when_the_link_is_there(here: Identity, there: Identity) -> None:
    with listening(here, there) as listener, contextlib.closing(come(listener, there, here)):
        listener.accept(5).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", listener.port))


def test_a_server_stays_for_the_next_one(here: Identity, there: Identity) -> None:
    with listening(here, there, links=0) as listener:
        for _each in range(3):
            come(listener, there, here).close()
            with pytest.raises(PathBrokenError):
                listener.accept(5).receive(5.0)


def test_nothing_is_sent_in_clear(here: Identity, there: Identity) -> None:
    """A relay between the two records every byte, both ways."""
    seen = {"to": bytearray(), "from": bytearray()}
    with listening(here, there) as listener, socket.create_server(("127.0.0.1", 0)) as relay:

        def carry(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(1 << 16):
                    record.extend(data)
                    sink.sendall(data)

        def pass_on() -> None:
            with relay.accept()[0] as client, socket.create_connection(("127.0.0.1", listener.port)) as server:
                back = threading.Thread(target=carry, args=(server, client, seen["from"]))
                back.start()
                carry(client, server, seen["to"])
                back.join()

        relaying = threading.Thread(target=pass_on)
        relaying.start()
        secret = b"what the volume holds " * 40_000
        joined = join(there, here.certificate, ["127.0.0.1"], relay.getsockname()[1], TOKEN, 5.0)
        with contextlib.closing(joined), contextlib.closing(listener.accept(5)) as accepted:
            joined.send_data(secret)
            got = b""
            while len(got) < len(secret):
                got += accepted.receive(5.0)
            accepted.send(messages.Failure("host", "a message", "", "", ""))
            assert joined.receive(5.0).what == "a message"
        relaying.join()
    assert got == secret
    assert len(seen["to"]) > len(secret)
    for said in (b"what the volume", TOKEN, b"voltool", b"a message", here.certificate[-40:], there.certificate[-40:]):
        assert said not in seen["to"], said
        assert said not in seen["from"], said


def test_one_that_nobody_comes_to_gives_up_and_a_closed_one_at_once(here: Identity, there: Identity) -> None:
    with listening(here, there) as listener:
        with pytest.raises(PathBrokenError, match="no direct path"):
            listener.accept(0.01)
        threading.Timer(0.1, listener.close).start()
        with pytest.raises(PathBrokenError):
            listener.accept(60)


def test_what_cannot_be_reached_is_named_with_the_reason(here: Identity, there: Identity) -> None:
    with listening(here, there) as listener:
        port = listener.port
    with pytest.raises(UnreachableError) as caught:
        join(there, here.certificate, ["127.0.0.1", "::1"], port, TOKEN, 5.0)
    assert "127.0.0.1: Connection refused" in caught.value.why
    assert "::1: " in caught.value.why
    assert str(port) in caught.value.where


def test_an_end_that_closes_is_noticed_at_once(links: tuple[Link, Link]) -> None:
    joined, accepted = links
    threading.Timer(0.1, joined.close).start()
    with pytest.raises(PathBrokenError) as caught:
        accepted.receive()
    assert caught.value.exit_code == EXIT_UNREACHABLE
    assert accepted.closed
    with pytest.raises(PathBrokenError):
        accepted.send(messages.Done())


def test_a_forked_worker_does_not_keep_a_link_alive(links: tuple[Link, Link]) -> None:
    joined, accepted = links
    worker = os.fork()
    if not worker:
        time.sleep(60)
        os._exit(0)
    try:
        joined.close()
        with pytest.raises(PathBrokenError):
            accepted.receive(30)
    finally:
        os.kill(worker, 9)
        os.waitpid(worker, 0)


def test_silence_beyond_the_readers_time_breaks_it(links: tuple[Link, Link]) -> None:
    joined, accepted = links
    with pytest.raises(PathBrokenError, match="silent"):
        accepted.receive(0.05)
    with pytest.raises(PathBrokenError):
        joined.receive(30)


def test_a_range_of_ports_is_kept_to(here: Identity, there: Identity) -> None:
    with listening(here, there) as other:
        taken = other.port
        with pytest.raises(HostError, match="no port"):
            Listener(here, [there.certificate], f"{taken}-{taken}")
        listener = Listener(here, [there.certificate], f"{taken}-{min(taken + 50, 65535)}")
        assert taken < listener.port <= taken + 50
        listener.close()
    for wrong in ("5", "0-10", "20-10", "1-65536", "a-b"):
        with pytest.raises(UsageError):
            parse_ports(wrong)


def test_addresses_are_those_that_another_host_might_reach() -> None:
    environment = {"SSH_CONNECTION": "198.51.100.7 50000 203.0.113.9 22"}
    assert own_addresses(environment, loopback=False)[0] == "203.0.113.9"
    assert "127.0.0.1" not in own_addresses({"SSH_CONNECTION": "127.0.0.1 50000 127.0.0.1 22"}, loopback=False)
    assert own_addresses({}, loopback=True)[-2:] == ["127.0.0.1", "::1"]
    assert not any(is_candidate(text) for text in ("fe80::1", "169.254.1.1", "0.0.0.0", "::", "224.0.0.1", "x"))  # noqa: S104


def test_a_peer_that_is_none_of_the_trusted_is_refused_by_the_second_check_too(here: Identity, there: Identity) -> None:
    # Trusted by the same authority, itself: only the comparison of all of it tells them apart.
    with listening(here, there) as listener:
        context = client_context(there, here.certificate)
        raw = context.wrap_socket(socket.create_connection(("127.0.0.1", listener.port)))
        from voltool.agent.path.contexts import check_peer

        assert check_peer(raw, [here.certificate]) == here.certificate
        with pytest.raises(PathBrokenError, match="not who it should be"):
            check_peer(raw, [there.certificate])
        raw.close()
