"""What the target could not hold, counted by kind: a million files without their flag are one line, not a million.

Filled in workers, merged in the coordinator, told to a person at the end. Part of what is shipped to servers.
"""

from __future__ import annotations

import json
from typing import Dict, List, NamedTuple, Tuple

#: How many objects are named one by one; beyond it they are only counted.
MAX_NAMED = 1000
_UNREAD = "it could not be read when it was dumped"


class LostObject(NamedTuple):
    """An object that is not in the result; ``unread``: because its host could not read it, which says nothing of the target."""

    number: int
    why: str
    unread: bool


class Losses:
    """Attributes lost, by what was lost (count and the first object's number), and objects lost."""

    def __init__(self) -> None:
        self.attributes: Dict[str, Tuple[int, int]] = {}
        self.objects: List[LostObject] = []
        self.unnamed = 0

    def attribute(self, what: str, number: int, count: int = 1) -> None:
        """``what`` could not be set on object ``number`` (the first of ``count``)."""
        known, first = self.attributes.get(what, (0, number))
        self.attributes[what] = (known + count, first)

    def object(self, number: int, why: str) -> None:
        """Object ``number`` could not be made."""
        self._add(LostObject(number, why, unread=False))

    def unread(self, number: int) -> None:
        """There is nothing to make object ``number`` of."""
        self._add(LostObject(number, _UNREAD, unread=True))

    def take(self) -> bytes:
        """Everything so far as bytes for `merge`, and begin anew; empty where nothing was lost."""
        if not self.attributes and not self.objects:
            return b""
        text = json.dumps([self.attributes, self.objects, self.unnamed]).encode()
        self.__init__()  # type: ignore[misc]
        return text

    def text(self) -> bytes:
        """The same without beginning anew."""
        text = self.take()
        self.merge(text)
        return text

    def merge(self, taken: bytes) -> None:
        """Add what another process `take` n."""
        if not taken:
            return
        attributes, objects, unnamed = json.loads(taken)
        for what, (count, first) in attributes.items():
            self.attribute(what, first, count)
        for lost in objects:
            self._add(LostObject(*lost))
        self.unnamed += unnamed

    def _add(self, lost: LostObject) -> None:
        if len(self.objects) < MAX_NAMED:
            self.objects.append(lost)
        else:
            self.unnamed += 1
