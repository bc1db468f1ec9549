"""`dataclass(frozen=True)` whose methods are made when the first object of the class is, or when somebody asks for its fields.

Making them is most of what it takes to import a module of messages, of which a process uses a few: an agent starts in half the
time. What is made is the standard library's own. Ships to servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, NoReturn

__all__ = ["dataclass"]

#: What the standard library makes of a class.
_MADE = ("__init__", "__repr__", "__eq__", "__hash__")
#: What must not be there for it to wait.
_BY_HAND = (*_MADE, "__setattr__", "__delattr__", "__post_init__")


def _dataclass(*, frozen: bool) -> Callable[[type], type]:
    """As `dataclasses.dataclass`."""
    return _waiting if frozen else _at_once


def _at_once(cls: Any, *, frozen: bool = False) -> Any:
    import dataclasses

    return dataclasses.dataclass(frozen=frozen)(cls)


def _waiting(cls: Any) -> Any:
    mine = vars(cls)
    special = any(name in mine for name in _BY_HAND) or any(type(value).__name__ == "Field" for value in mine.values())
    if special or cls.__bases__ != (object,):
        return _at_once(cls, frozen=True)
    for name in _MADE:
        setattr(cls, name, _first(cls, name))
    cls.__setattr__ = _refuse_to_assign
    cls.__delattr__ = _refuse_to_delete
    setattr(cls, "__match_args__", tuple(mine.get("__annotations__", ())))  # noqa: B010 - mypy knows that name otherwise
    cls.__dataclass_fields__ = _Fields(cls)
    return cls


def _first(cls: Any, name: str) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        return _make(cls, name)(self, *arguments, **named)

    return method


class _Fields:
    """Stands for the fields until they are asked for."""

    def __init__(self, cls: Any) -> None:
        self._cls = cls

    def __get__(self, instance: object, owner: object = None) -> Any:
        return _make(self._cls, "__dataclass_fields__")


def _make(cls: Any, wanted: str) -> Any:
    """Let the standard library make all of it, for a class that is only like it; each part then stands in for the one that
    waited. Two threads may do it at once: each part is whole at any time, and both make the same."""
    import dataclasses

    mine = vars(cls)
    annotations = dict(mine.get("__annotations__", {}))
    body = {name: mine[name] for name in annotations if name in mine}
    body.update(__annotations__=annotations, __module__=cls.__module__, __qualname__=cls.__qualname__, __doc__="-")
    like = vars(dataclasses.dataclass(frozen=True)(type(cls.__name__, (), body)))
    for name in ("__dataclass_params__", "__dataclass_fields__", *_MADE):
        setattr(cls, name, like[name])
    return like[wanted]


def _refuse_to_assign(_self: object, name: str, _value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_self: object, name: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot delete field {name!r}")


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _dataclass
