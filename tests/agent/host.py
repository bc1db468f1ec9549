"""A host state in a directory of the test's own, and a conversation that only collects."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from voltool.agent.host import HostState
from voltool.events import Event, Notice
from voltool.wire.conversation import Buffer
from voltool.wire.messages import AdoptVolume, Message

UUID = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32


class Collected:
    """A Conversation of handlers that only report."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def send(self, message: Message) -> None:
        raise AssertionError(f"nothing should be sent: {message}")

    def send_data(self, data: Buffer) -> None:
        raise AssertionError(f"no data should be sent: {len(data)} bytes")

    def receive(self) -> Any:
        raise AssertionError("nothing should be asked")

    def report(self, event: Event) -> None:
        self.events.append(event)

    @property
    def notices(self) -> str:
        return "\n".join(event.message for event in self.events if isinstance(event, Notice))


def host_state(directory: Path) -> HostState:
    return HostState(os.fsencode(directory), "testhost", "0" * 32, "boot")


def adoption(path: Path | bytes, uuid: str = UUID, **values: Any) -> AdoptVolume:
    given = {"name": "vol", "driver": "auto", "excludes": (), **values}
    return AdoptVolume(uuid=uuid, path=os.fsencode(path), **given)
