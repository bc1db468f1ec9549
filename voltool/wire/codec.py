"""Frozen dataclasses to JSON and back, by their type hints. No I/O. Part of what is shipped to servers.

Bytes travel as base64 text, enums as their value, tuples as arrays, nested dataclasses as objects. A field that is not
known is refused: both sides are always the same version, since the CLI ships the agent.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import functools
import json
import types
import typing
from typing import Any, Dict, Type, TypeVar, Union

from voltool.errors import AgentError

T = TypeVar("T")

#: How ``Optional[int]`` and (from Python 3.10 on) ``int | None`` say what they are.
_UNIONS = (Union, getattr(types, "UnionType", Union))


def to_plain(value: Any) -> Any:
    """A JSON-able picture of a dataclass, bytes, enum, tuple or plain value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    return value


@functools.cache
def _hints(cls: type) -> Dict[str, Any]:
    return typing.get_type_hints(cls)


def from_plain(hint: Any, plain: Any) -> Any:
    """The value of type ``hint`` from its picture; raises AgentError when it does not fit."""
    try:
        return _from_plain(hint, plain)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise AgentError("a message does not have the form it should have", why=str(error)) from None


def _from_plain(hint: Any, plain: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in _UNIONS:
        if plain is None:
            return None
        (inner,) = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _from_plain(inner, plain)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_from_plain(inner, item) for item in plain)
    if origin is dict:
        inner = typing.get_args(hint)[1]
        return {str(key): _from_plain(inner, item) for key, item in plain.items()}
    if dataclasses.is_dataclass(hint):
        return _dataclass_from_plain(typing.cast("type", hint), plain)
    if hint is bytes:
        return base64.b64decode(plain, validate=True)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(plain)
    if hint is float and isinstance(plain, int):
        return float(plain)
    if not isinstance(plain, hint) or (hint is int and isinstance(plain, bool)):
        raise TypeError(f"{plain!r} is not of type {hint}")
    return plain


def _dataclass_from_plain(cls: Type[T], plain: Any) -> T:
    hints = _hints(typing.cast("type", cls))
    unknown = set(plain) - set(hints)
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {min(unknown)}")
    return cls(**{name: _from_plain(hints[name], value) for name, value in plain.items()})


def encode_message(message: Any) -> bytes:
    """A message as JSON: its type's name and its fields."""
    return json.dumps({"type": type(message).__name__, "body": to_plain(message)}, separators=(",", ":")).encode()


def decode_message(data: bytes, known: Dict[str, type]) -> Any:
    """The message out of its JSON; raises AgentError unless its type is one of ``known``."""
    try:
        picture = json.loads(data)
        cls = known[picture["type"]]
        body = picture["body"]
    except (ValueError, KeyError, TypeError):
        raise AgentError("the other side sent a message that this voltool does not know") from None
    return from_plain(cls, body)
