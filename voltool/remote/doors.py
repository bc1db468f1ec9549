"""The other direction for lazy replicas, from the command line's side: a door at the replica's host, and hosts that come to it
(`wire.doors`). For every job that lets hosts serve files to another one that cannot connect to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from voltool.wire import messages
from voltool.wire.conversation import IntroducedConversation, expect
from voltool.wire.doors import AwaitGuests, CloseDoor, Door, DoorOpened, Guests, OpenDoor
from voltool.wire.replicas import FetchSource

#: How long is waited for the first that comes, seconds, one step after the other; after each but the last is asked whether all
#: have failed.
_STEPS = (0.5, 0.5, 2.0, 6.0)
#: That nobody is to come (any more).
NO_DOOR = Door()


@dataclass(frozen=True)
class Served:
    """Hosts that serve (``sources``), and why those that were to come to a door are not there (``faults``, by host)."""

    sources: tuple[FetchSource, ...]
    faults: dict[str, str]


#: Lets hosts serve, and go to that door (`NO_DOOR`: to none any more; None: as before). Repeatable.
Serve = Callable[[Door | None], Served]


@dataclass(frozen=True)
class Coming:
    """``sources`` that come; empty: none does, and ``why``."""

    sources: tuple[FetchSource, ...]
    why: str = ""


def let_come(
    there: IntroducedConversation, purpose: str, sources: Sequence[FetchSource], serve: Serve, *, stay: bool = False
) -> Coming:
    """Let those who serve connect to the replica's host, whose agent is ``there``. Where none does in time nothing waits for them
    any more, unless it is to ``stay`` so."""
    door = _opened(there, purpose, sources)
    serve(door)
    for step in _STEPS:
        there.send(AwaitGuests(purpose, step))
        if expect(there, Guests).peers:
            # Also those who are not there yet: they may come later.
            return Coming(tuple(dataclasses.replace(source, comes=True) for source in sources))
        if step != _STEPS[-1] and len(serve(None).faults) == len(sources):
            break
    if not stay:
        there.send(CloseDoor(purpose))
        expect(there, messages.Done)
    faults = serve(None if stay else NO_DOOR).faults
    why = "; ".join(f"{host}: {fault}" for host, fault in sorted(faults.items()))
    return Coming((), why or "nobody came in time")


def _opened(there: IntroducedConversation, purpose: str, sources: Sequence[FetchSource]) -> Door:
    there.send(OpenDoor(purpose, tuple(source.certificate for source in sources), there.ports))
    door = expect(there, DoorOpened).door
    # A host behind a router does not know under which address others see it; the command line may.
    known = there.address()
    if known and known not in door.addresses:
        door = dataclasses.replace(door, addresses=(*door.addresses, known))
    return door
