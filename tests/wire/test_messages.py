from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool import errors, model
from voltool.errors import AgentError, VoltoolError
from voltool.events import Event, Notice, PhaseEnded, PhaseStarted, Progressed
from voltool.wire import doors, messages, moving, paths, replicas, serving, tunnel

MODULES = (messages, moving, paths, replicas, serving, doors, tunnel)
# Hypothesis looks at signatures, which are there when somebody has asked for the fields (see voltool.frozen).
for module in (model, *MODULES):
    for value in vars(module).values():
        if dataclasses.is_dataclass(value):
            dataclasses.fields(value)

# NaN, which is not equal to itself, is no number that anybody sends.
st.register_type_strategy(float, st.floats(allow_nan=False))
any_message: st.SearchStrategy[Any] = st.one_of([st.from_type(kind) for kind in messages.KNOWN.values()])


@given(message=any_message)
def test_every_message_survives_the_wire(message: Any) -> None:
    assert messages.decode(messages.encode(message)) == message


@pytest.mark.parametrize("kind", messages.KNOWN.values(), ids=messages.KNOWN)
def test_a_field_that_is_not_known_is_refused(kind: type) -> None:
    text = json.dumps({"type": kind.__name__, "body": {"no such field": 1}}).encode()
    with pytest.raises(AgentError, match="does not have the form"):
        messages.decode(text)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{}", b'{"type": "Sudo", "body": {}}', b'{"type": "Hello", "body": {"caller": 5}}', b"\xff\xfe",
     b'{"type": "Hello", "body": 3}', b'{"type": ["Hello"], "body": {}}', b'{"type": "Hello", "body": {}}'],
)  # fmt: skip
def test_what_is_no_message_is_refused(text: bytes) -> None:
    with pytest.raises(AgentError):
        messages.decode(text)


def all_errors(root: type[VoltoolError]) -> list[type[VoltoolError]]:
    return [root, *(kind for child in root.__subclasses__() for kind in all_errors(child))]


@pytest.mark.parametrize("kind", [kind for kind in all_errors(VoltoolError) if kind.__module__ == errors.__name__])
def test_an_error_arrives_as_what_it_was(kind: type[VoltoolError]) -> None:
    failure = messages.decode(messages.encode(messages.failure_of(kind("a", where="b", why="c", remedy="d"))))
    with pytest.raises(kind) as caught:
        messages.raise_failure(failure)
    assert type(caught.value) is kind
    assert (caught.value.what, caught.value.where, caught.value.why, caught.value.remedy) == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "event",
    [PhaseStarted("v", "dump", 5, 6), Progressed("v", "dump", 0, 0), PhaseEnded("v", "dump"), Notice("info", "x")],
)
def test_an_event_arrives_as_what_it_was(event: Event) -> None:
    assert messages.event_of(messages.decode(messages.encode(messages.wrap_event(event)))) == event


def test_the_table_of_messages_is_complete() -> None:
    modules = [module.__name__ for module in MODULES]
    defined = {
        name
        for name, value in vars(messages).items()
        if dataclasses.is_dataclass(value) and getattr(value, "__module__", "") in modules
    }
    assert defined - {"Act", "Estimate", "Finding", "HostFact", "LockInfo", "Obstacle", "RetiredCopy"} == set(
        messages.KNOWN
    )  # these are parts of others
    assert typing.get_args(messages.Message) == tuple(messages.KNOWN.values())
