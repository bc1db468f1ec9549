"""What was used last, up to a cost; several threads may use it. Knows nothing of what is kept. Ships to servers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, Hashable, Optional, Tuple, TypeVar

Value = TypeVar("Value")


class Lru(Generic[Value]):
    """Values by key, those used last; together they cost no more than ``limit`` (in whatever unit the caller counts).

    A value that costs more than the limit alone is not kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._cost = 0
        self._kept: OrderedDict[Hashable, Tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Optional[Value]:
        """The value, used now; None where it is not kept (any more)."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Value, cost: int) -> None:
        """Keep ``value``, and let go of those that were not used for the longest time."""
        with self._lock:
            old = self._kept.pop(key, None)
            self._cost += cost - (old[1] if old is not None else 0)
            self._kept[key] = (value, cost)
            while self._cost > self._limit:
                _key, (_value, freed) = self._kept.popitem(last=False)
                self._cost -= freed
