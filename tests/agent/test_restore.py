"""The restore verb: its conversation, as the command line sees it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import judge, torture
from tests.tree.apply_streams import VOLUME, Stream, stream_of
from voltool.agent.channel import StdioChannel
from voltool.agent.handlers import find_handler
from voltool.agent.host import HostState
from voltool.errors import AgentError, IntegrityError, RefusedError, UsageError
from voltool.volumes import records
from voltool.wire import messages
from voltool.wire.framing import DATA, FrameDecoder, encode_frame_head


class Client:
    """The command line's end of two pipes; sends in a thread of its own, so that neither side can block the other."""

    def __init__(self) -> None:
        request_read, self._requests = os.pipe()
        self._replies, reply_write = os.pipe()
        self.channel = StdioChannel(request_read, reply_write)
        self._decoder = FrameDecoder(expect_sync=False)
        self._frames: list[Any] = []
        self.events: list[messages.Progress] = []

    def send(self, data: bytes) -> threading.Thread:
        def run() -> None:
            for at in range(0, len(data), 1 << 18):
                piece = data[at : at + (1 << 18)]
                _write(self._requests, encode_frame_head(DATA, len(piece)) + piece)
            end = messages.encode(messages.EndOfData())
            _write(self._requests, encode_frame_head(1, len(end)) + end)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def received(self) -> list[Any]:
        """What the agent has sent: replies; its events are kept apart."""
        os.set_blocking(self._replies, False)
        replies: list[Any] = []
        while True:
            try:
                data = os.read(self._replies, 1 << 20)
            except BlockingIOError:
                return replies
            for frame in self._decoder.feed(data):
                message = messages.decode(frame.payload)
                (self.events if isinstance(message, messages.Progress) else replies).append(message)

    def notices(self) -> list[str]:
        return [event.notice.message for event in self.events if event.notice is not None]

    def close(self) -> None:
        for descriptor in (self._requests, self._replies, self.channel.source, self.channel._sink):
            os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.close()


@pytest.fixture
def host(tmp_path: Path) -> HostState:
    return HostState(os.fsencode(tmp_path / "state"), "host", "machine", "boot")


def small() -> Stream:
    stream = Stream()
    stream.directory(1)
    for number in range(2, 12):
        stream.file(number, 1, b"file-%d" % number, os.urandom(50_000))
    stream.batch = 100_000
    return stream


def request(stream: Stream, target: Path, **values: Any) -> messages.StartRestore:
    return messages.StartRestore(os.fsencode(target), VOLUME, stream.state_id, workers=1, **values)


def run(client: Client, host: HostState, asked: messages.StartRestore, data: bytes) -> messages.RestoreReply:
    sender = client.send(data)
    try:
        reply = find_handler(asked)(asked, client.channel, host)
    finally:
        sender.join(20)
    assert isinstance(reply, messages.RestoreReply)
    return reply


def test_a_tree_comes_back_and_nothing_else_is_left(client: Client, host: HostState, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    torture.build(source)
    try:
        stream = stream_of(source)
        reply = run(client, host, request(stream, target), stream.encode())
        assert judge.compare(source, target) == []
        assert reply.entries == len(stream.entries)
        assert reply.problems == ()
        assert client.received() == [messages.RestoreReady(0)]
        started = [event.started for event in client.events if event.started is not None]
        assert [event.phase for event in started] == ["restore"]
        assert [event.ended.phase for event in client.events if event.ended is not None] == ["restore"]
        assert sorted(os.listdir(tmp_path)) == ["home", "source", "state", "target"]
        assert records.remembered_areas(host.directory) == []
    finally:
        torture.destroy(source)
        torture.destroy(target)


def test_an_interrupted_restore_goes_on_and_says_so(
    client: Client, host: HostState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voltool.tree.apply.applier.SYNC_SECONDS", 0.0)
    stream = small()
    whole = stream.encode()
    with pytest.raises(IntegrityError):
        run(client, host, request(stream, tmp_path / "target"), whole[: len(whole) * 3 // 4])
    assert not (tmp_path / "target").exists()
    assert len(records.remembered_areas(host.directory)) == 1
    assert client.received() == [messages.RestoreReady(0)]
    seen: list[int] = []

    class Asks(StdioChannel):
        def send(self, message: messages.Message) -> None:
            if isinstance(message, messages.RestoreReady):
                seen.append(message.resume_after)
                senders.append(client.send(stream.encode(message.resume_after)))
            super().send(message)

    senders: list[threading.Thread] = []
    client.channel.__class__ = Asks
    asked = request(stream, tmp_path / "target")
    find_handler(asked)(asked, client.channel, host)
    senders[0].join()
    client.received()
    assert 2 < seen[0] < 11
    assert any("goes on" in notice for notice in client.notices())
    for file in stream.files:
        path = tmp_path / "target" / f"file-{file.final.number}"
        assert path.read_bytes() == dict(file.parts)[0]


def test_staging_of_another_restore_is_named(client: Client, host: HostState, tmp_path: Path) -> None:
    stream = small()
    with pytest.raises(IntegrityError):
        run(client, host, request(stream, tmp_path / "one"), stream.encode()[:-5])
    run(client, host, request(stream, tmp_path / "two"), stream.encode())
    client.received()
    (left,) = os.listdir(tmp_path / ".voltool")
    assert [left in notice and "host clean" in notice for notice in client.notices()] == [True]


def test_a_target_with_content_is_refused_before_data_is_asked_for(
    client: Client, host: HostState, tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/precious").write_bytes(b"x")
    asked = request(small(), tmp_path / "target")
    with pytest.raises(RefusedError, match="not empty"):
        find_handler(asked)(asked, client.channel, host)
    assert client.received() == []
    assert sorted(os.listdir(tmp_path)) == ["home", "target"]


def test_a_relative_target_is_refused(client: Client, host: HostState) -> None:
    asked = messages.StartRestore(b"srv/vol", VOLUME, "0" * 64)
    with pytest.raises(UsageError, match="absolute"):
        find_handler(asked)(asked, client.channel, host)


def test_another_message_in_the_middle_is_an_error(client: Client, host: HostState, tmp_path: Path) -> None:
    stream = small()
    payload = messages.encode(messages.Proceed())
    _write(client._requests, encode_frame_head(1, len(payload)) + payload)
    asked = request(stream, tmp_path / "target")
    with pytest.raises(AgentError, match="where a dump should"):
        find_handler(asked)(asked, client.channel, host)
    assert not (tmp_path / "target").exists()


def test_a_link_in_the_target_s_parents_is_followed(client: Client, host: HostState, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "link")
    stream = small()
    run(client, host, request(stream, tmp_path / "link/x/../target"), stream.encode())
    assert len(os.listdir(tmp_path / "real/target")) == 10


def test_bandwidth_is_kept(client: Client, host: HostState, tmp_path: Path) -> None:
    stream = small()
    data = stream.encode()
    begun = time.monotonic()
    run(client, host, request(stream, tmp_path / "target", bandwidth=len(data)), data)
    assert 0.8 < time.monotonic() - begun < 10
