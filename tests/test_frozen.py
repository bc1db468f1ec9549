"""Frozen classes that make their methods late are what the standard library makes at once."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from typing import Any, get_args

import pytest

from voltool import events, frozen, model
from voltool.wire import messages

CLASSES = sorted(
    {
        each
        for module in (model, events)
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__ and dataclasses.is_dataclass(each)
    }
    | set(get_args(messages.Message)),
    key=lambda each: each.__name__,
)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_as_the_standard_library(cls: Any) -> None:
    hints = dict(vars(cls).get("__annotations__", {}))
    body = {name: value for name, value in vars(cls).items() if name in hints}
    body |= {"__annotations__": hints, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    like: Any = dataclasses.dataclass(frozen=True)(type(cls.__name__, (), body))
    assert [(f.name, f.default, f.type) for f in dataclasses.fields(cls)] == [
        (f.name, f.default, f.type) for f in dataclasses.fields(like)
    ]
    assert cls.__match_args__ == like.__match_args__
    values = {field.name: f"<{field.name}>" for field in dataclasses.fields(cls)}
    one, other, theirs = cls(**values), cls(*values.values()), like(**values)
    assert (one, hash(one), repr(one)) == (other, hash(theirs), repr(theirs))
    assert one != theirs
    assert dataclasses.asdict(one) == values
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)  # noqa: S301 - our own
    for name in (*values, "else"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(one, name)
    with pytest.raises(TypeError, match="unexpected keyword"):
        cls(**values, unknown=1)


def test_many_threads_make_the_first_one_at_once() -> None:
    for _round in range(20):

        @frozen.dataclass(frozen=True)
        class Fresh:
            one: int
            two: str = "2"

        ready, made = threading.Barrier(8), []

        def make() -> None:
            ready.wait()  # noqa: B023 - both are of this round
            made.append(Fresh(1))  # noqa: B023

        threads = [threading.Thread(target=make) for _each in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [Fresh(1, "2")] * 8


def test_what_it_is_not_made_for_is_made_at_once() -> None:
    @frozen.dataclass(frozen=True)
    class Base:
        one: int

    @frozen.dataclass(frozen=True)
    class Below(Base):
        many: list[int] = dataclasses.field(default_factory=list)

        def __post_init__(self) -> None:
            self.many.append(self.one)

    assert (Below(3).many, Below(3) == Below(3)) == ([3], True)
