"""The SFTP store where it hurts: kill -9, broken connections, full disks, missing rights, poor and hostile servers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.filesystems import LoopFilesystem
from tests.sshd import Sshd, generate_key, throwaway_user
from tests.stores.conformance import DATA, get, put
from tests.writer import wait_until
from voltool.errors import EXIT_UNREACHABLE, SpaceError, UnreachableError, UsageError, VoltoolError
from voltool.events import Event, Notice
from voltool.stores import sftp_leases
from voltool.stores.access import StoreAccess
from voltool.stores.contract import ASIDE_MOST, Store
from voltool.stores.opening import StoreOpener, normalize_url
from voltool.stores.sftp_files import SftpWriter
from voltool.stores.sftp_wire import SftpWire

#: A line of sshd_config for a server that knows nothing but the protocol.
WITHOUT_EXTENSIONS = "ForceCommand internal-sftp -P fsync,hardlink,posix-rename,statvfs,limits"

WRITER = """
import sys
from voltool.stores import sftp_leases
from voltool.stores.access import StoreAccess
from voltool.stores.opening import StoreOpener
store = StoreOpener(0.0, lambda host: StoreAccess(ssh_config=sys.argv[2])).open(sys.argv[1])
writer = store.create("vol/a.voltool")
writer.write(b"x" * 1000000)
held = store.pin("vol/there.voltool", "test")
held.__enter__()
print("ready", flush=True)
sys.stdin.read()
"""


class Said:
    """A Reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def report(self, event: Event) -> None:
        assert isinstance(event, Notice)
        self.notices.append(event.message)


class Server:
    """An sshd, and stores on it."""

    def __init__(self, sshd: Sshd, directory: Path) -> None:
        self.sshd = sshd
        self.root = directory / "store"
        self.said = Said()
        self._openers: list[StoreOpener] = []

    def store(self, root: Path | None = None, *, min_free: float = 0.0, transport: str = "paramiko") -> Store:
        """With a connection of its own."""
        access = StoreAccess(
            transport=transport, silence_timeout=10.0, ssh_config=str(self.sshd.config_file), reporter=self.said
        )
        opener = StoreOpener(min_free, lambda _host: access)
        self._openers.append(opener)
        return opener.open(f"sftp://{self.sshd.name}{root or self.root}")

    def close(self) -> None:
        for opener in self._openers:
            opener.close()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture
def server(sshd: Sshd, tmp_path: Path) -> Iterator[Server]:
    server = Server(sshd, tmp_path)
    yield server
    server.close()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_what_the_dead_left_is_kept_until_their_lease_is_old_and_then_swept(server: Server) -> None:
    store = server.store()
    put(store, "vol/there.voltool")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.url, str(server.sshd.config_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert (store.sweep(), store.is_pinned("vol/there.voltool")) == ((), True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # Nobody can know yet: the connection may only be broken.
    assert (store.sweep(), store.is_pinned("vol/there.voltool")) == ((), True)
    for lease in (server.root / ".leases").iterdir():
        os.utime(lease, (0, 0))
    assert not store.is_pinned("vol/there.voltool")
    (swept,) = store.sweep()
    assert swept.startswith(".unfinished/")
    assert files(server.root) == ["vol/there.voltool"]


def test_a_dump_whose_writer_died_just_after_it_was_named_stays(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = server.store()
    with monkeypatch.context() as patch:
        patch.setattr(SftpWriter, "_leave", lambda _self: None)
        put(store, "vol/a.voltool")
    for lease in (server.root / ".leases").iterdir():
        os.utime(lease, (0, 0))
    other = server.store()
    assert len(other.sweep()) == 1
    assert get(other, "vol/a.voltool") == DATA


def test_who_is_alive_says_so_again_and_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_leases, "BEAT", 0.05)
    store = server.store()
    writer = store.create("vol/a.voltool")
    (lease,) = (server.root / ".leases").iterdir()
    os.utime(lease, (0, 0))
    server.sshd.kill_sessions()  # it also survives its connection
    wait_until(lambda: lease.stat().st_mtime > 0)
    assert server.store().sweep() == ()
    writer.abandon()
    assert list((server.root / ".leases").iterdir()) == []


def test_sweeping_while_others_begin_and_publish(server: Server) -> None:
    stop = threading.Event()
    sweeping = server.store()

    def sweep() -> None:
        while not stop.is_set():
            sweeping.sweep()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    store = server.store()
    try:
        for number in range(25):
            put(store, f"vol/{number}.voltool", b"x")
    finally:
        stop.set()
        sweeper.join()
    assert len(list(store.list())) == 25


def test_a_reader_goes_on_over_a_new_connection(server: Server) -> None:
    store = server.store()
    data = os.urandom(3 << 20)
    put(store, "vol/a.voltool", data)
    reader = store.open("vol/a.voltool")
    parts = [reader.read_at(at, 1 << 16) for at in range(0, 1 << 20, 1 << 16)]
    server.sshd.kill_sessions()
    parts += [reader.read_at(at, 1 << 16) for at in range(1 << 20, 3 << 20, 1 << 16)]
    assert b"".join(parts) == data
    server.sshd.kill_sessions()
    (server.root / "vol/a.voltool").write_bytes(data[:-1])
    with pytest.raises(VoltoolError, match="replaced"):
        reader.read_at(0, 10)
    reader.close()


def test_a_writer_whose_connection_broke_has_published_nothing(server: Server) -> None:
    store = server.store()
    writer = store.create("vol/a.voltool")
    writer.write(DATA)
    server.sshd.kill_sessions()
    with pytest.raises(UnreachableError) as caught:
        writer.publish()
    assert caught.value.exit_code == EXIT_UNREACHABLE
    writer.abandon()
    assert list(store.list()) == []
    assert files(server.root) == []
    other = store.create("vol/a.voltool")
    other.write(DATA)
    server.sshd.kill_sessions()
    assert list(store.list()) == []  # this has made a new connection
    with pytest.raises(UnreachableError, match="while a dump was written"):
        other.publish()
    other.abandon()


def test_a_server_that_falls_silent_is_given_up(server: Server) -> None:
    access = StoreAccess(silence_timeout=1.0, connect_timeout=1.0, ssh_config=str(server.sshd.config_file))
    opener = StoreOpener(0.0, lambda _host: access)
    store = opener.open(f"sftp://throwaway{server.root}")
    put(store, "vol/a.voltool")
    server.sshd.freeze_sessions()
    try:
        # It is tried over a new connection, which works: the listener was not stopped.
        assert get(store, "vol/a.voltool") == DATA
    finally:
        opener.close()
        server.sshd.kill_sessions()


def test_an_interruption_in_the_middle_of_a_reply_costs_the_connection_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = server.store()
    put(store, "vol/a.voltool", os.urandom(1 << 20))
    writer = store.create("vol/b.voltool")
    writer.write(DATA)
    reader = store.open("vol/a.voltool")
    real = SftpWire._read_all

    def interrupted(client: SftpWire, n: int) -> bytes:
        data = real(client, n)
        if n > 1000:
            raise KeyboardInterrupt
        return data

    with monkeypatch.context() as patch:
        patch.setattr(SftpWire, "_read_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reader.read_at(0, 1 << 20)
    writer.abandon()
    assert files(server.root) == ["vol/a.voltool"]
    assert len(reader.read_at(0, 1 << 20)) == 1 << 20


def test_an_unknown_key_and_a_closed_port_are_not_reached(server: Server, tmp_path: Path) -> None:
    other = generate_key(tmp_path / "other_key")
    known = tmp_path / "known_hosts"
    key = " ".join(other.with_suffix(".pub").read_text().split()[:2])
    known.write_text(server.sshd.known_hosts_line.split()[0] + " " + key + "\n")
    config = tmp_path / "ssh_config"
    config.write_text(
        server.sshd.config_file.read_text().replace(str(server.sshd.known_hosts_file), str(known))
        + "Host closed\n    HostName 127.0.0.1\n    Port 1\n"
    )
    opener = StoreOpener(0.0, lambda _host: StoreAccess(ssh_config=str(config)))
    for host in ("throwaway", "closed"):
        with pytest.raises(UnreachableError):
            list(opener.open(f"sftp://{host}/srv").list())


def test_a_full_disk_ends_cleanly(server: Server, make_filesystem: Callable[..., LoopFilesystem]) -> None:
    filesystem = make_filesystem("ext4", 24 << 20)
    root = filesystem.path / "store"
    store = server.store(root)
    writer = store.create("vol/a.voltool")
    with pytest.raises(SpaceError, match="full"):
        write_48_mib(writer.write, writer.publish)
    writer.abandon()
    assert files(root) == []
    careful = server.store(root, min_free=50.0).create("vol/b.voltool")
    with pytest.raises(SpaceError, match="no room left"):
        write_48_mib(careful.write, careful.publish)
    careful.abandon()
    put(store, "vol/small.voltool")


def test_discarding_needs_no_room(server: Server, make_filesystem: Callable[..., LoopFilesystem]) -> None:
    filesystem = make_filesystem("ext4", 24 << 20)
    store = server.store(filesystem.path)
    for name in ("vol/a.voltool", "vol/b.voltool"):
        put(store, name)
    fill(filesystem.path / "filler")
    (before,) = store.list("vol/a")
    with store.pin("vol/b.voltool", "a restore"):
        assert get(store, "vol/b.voltool") == DATA
    store.discard("vol/a.voltool")
    assert [file.name for file in store.list()] == ["filler", "vol/b.voltool"]
    (discarded,) = store.discarded()
    assert discarded.mtime_ns >= before.mtime_ns
    store.recover("vol/a.voltool")
    store.discard("vol/a.voltool")
    store.purge("vol/a.voltool")
    assert list(store.discarded()) == []


def fill(path: Path) -> None:
    """Until not a byte more can be written."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size) if size > 1 else b"x")


def write_48_mib(write: Callable[[bytes], None], publish: Callable[[], None]) -> None:
    for _ in range(48):
        write(os.urandom(1 << 20))
    publish()


def test_who_may_only_read_can_read(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with throwaway_user() as (user, _password), Sshd(tmp_path / "sshd", user=user) as sshd:
        root = Path("/var/tmp") / f"voltool-test-{user}"  # the test's own directory is closed to others
        root.mkdir(mode=0o755)
        server = Server(sshd, tmp_path)
        try:
            put(StoreOpener(0.0).open(str(root)), "vol/a.voltool")
            for path in (root / "vol", root / "vol/a.voltool"):
                path.chmod(0o755)
            store = server.store(root)
            with store.pin("vol/a.voltool", "a restore"):
                assert get(store, "vol/a.voltool") == DATA
            with pytest.raises(VoltoolError) as caught:
                store.create("vol/b.voltool")
            assert (caught.value.why, caught.value.exit_code) == ("permission denied", 1)
            assert "owner" in caught.value.remedy
        finally:
            server.close()
            subprocess.run(["rm", "-r", str(root)], check=True)


def test_a_server_without_fsync_is_named_once(server: Server, tmp_path: Path) -> None:
    with Sshd(tmp_path / "poor", options=[WITHOUT_EXTENSIONS]) as sshd:
        poor = Server(sshd, tmp_path / "poor")
        store = poor.store()
        put(store, "vol/a.voltool")
        put(store, "vol/b.voltool")
        (said,) = poor.said.notices
        assert "no fsync" in said
        assert store.space() is None
        poor.close()
    put(server.store(), "vol/a.voltool")
    assert server.said.notices == []


def test_the_systems_own_client_serves_as_well(server: Server) -> None:
    store = server.store(transport="openssh")
    put(store, "vol/a.voltool")
    assert get(store, "vol/a.voltool") == DATA


def test_two_threads_share_a_store(server: Server) -> None:
    store = server.store()
    data = os.urandom(2 << 20)
    put(store, "vol/a.voltool", data)
    failures: list[str] = []

    def work(number: int) -> None:
        put(store, f"vol/{number}.voltool", data)
        reader = store.open("vol/a.voltool")
        if b"".join(reader.read_at(at, 30_000) for at in range(0, len(data), 30_000)) != data:
            failures.append("read")
        reader.close()
        if get(store, f"vol/{number}.voltool") != data:
            failures.append("written")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(list(store.list())) == 5
    assert files(server.root) == ["vol/0.voltool", "vol/1.voltool", "vol/2.voltool", "vol/3.voltool", "vol/a.voltool"]


def test_dumps_are_for_their_owner_alone(server: Server) -> None:
    put(server.store(), "vol/a.voltool")
    assert server.root.stat().st_mode & 0o777 == 0o700
    assert (server.root / "vol/a.voltool").stat().st_mode & 0o777 == 0o600


def test_foreign_and_hostile_entries_are_passed_over(server: Server) -> None:
    store = server.store()
    put(store, "vol/a.voltool")
    root = server.root
    (root / "vol/link").symlink_to("a.voltool")
    (root / ".hidden").mkdir()
    (root / ".hidden/b.voltool").write_bytes(b"")
    (root / ".unfinished/not ours").write_bytes(b"")
    os.mkfifo(root / "vol/fifo")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\n")).write_bytes(b"x")
    assert [os.fsencode(file.name) for file in store.list()] == [b"vol/a.voltool", b"\xff\n"]
    assert list(store.oddities()) == ["vol/fifo", "vol/link"]
    assert get(store, os.fsdecode(b"\xff\n")) == b"x"
    assert store.sweep() == (".unfinished/not ours",)
    for name in ("vol/link", "vol/fifo"):
        with pytest.raises(VoltoolError, match="cannot be opened"):
            store.open(name)


@pytest.mark.parametrize("kind", ["sftp", "local"])
def test_notes_that_nobody_of_us_wrote(server: Server, kind: str) -> None:
    store = server.store() if kind == "sftp" else StoreOpener(0.0).open(str(server.root))
    server.root.mkdir()
    with (server.root / "volumes.json").open("wb") as file:
        file.truncate(ASIDE_MOST + 1)
    (server.root / "config.toml").symlink_to("/etc/passwd")
    os.mkfifo(server.root / "accepted.json")
    for name in ("volumes.json", "config.toml", "accepted.json"):
        with pytest.raises(VoltoolError):
            store.get_aside(name)


@pytest.mark.parametrize(
    "url",
    [
        "sftp://host",
        "sftp:///x",
        "sftp://user:secret@host/x",
        "sftp://@host/x",
        "sftp://host/x?y",
        "sftp:host/x",
        "sftp://host/",
    ],
)
def test_urls_of_no_store(url: str) -> None:
    with pytest.raises(UsageError, match="not a store"):
        StoreOpener(0.0).open(url)


def test_one_spelling_for_one_store() -> None:
    for url in ("sftp://me@host:2222/a b/", "sftp://me@host:2222//a%20b", "sftp://me@host:2222/x/../a b"):
        assert normalize_url(url) == "sftp://me@host:2222/a%20b"
