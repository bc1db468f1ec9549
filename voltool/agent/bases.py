"""Which states and clones of a volume serve as the base of later dumps: at most one a level. Ships to servers.

``bases.json`` in the volume's area. A dump first stands there as *pending*; once its store has published it, it becomes
the base of its level, and those of higher levels, which no later dump can be made against, are given up. A pending dump
whose store did publish it is recognised by its state id when the next dump names that as its base.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Dict, Optional, Set

from voltool import durable

#: In the place of a level: what a move has sent last. No dump is made against it, and it replaces no level's base.
MOVE_LEVEL = 10


@dataclass(frozen=True)
class Base:
    """A state that a later dump may be made against; ``label`` names its clone, empty where none is kept."""

    state_id: str
    dump_id: str
    label: str
    level: int


class BaseBook:
    """The bases of one volume, kept durably. Use under the volume's lock."""

    def __init__(self, area: bytes) -> None:
        self._path = os.path.join(area, b"bases.json")
        self.bases: Dict[int, Base] = {}
        self.pending: Optional[Base] = None
        try:
            with open(self._path, "rb") as file:
                picture = json.load(file)
            self.bases = {int(level): Base(**fields) for level, fields in picture["bases"].items()}
            self.pending = Base(**picture["pending"]) if picture["pending"] else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # a lost book costs one slow dump, no more

    def find(self, state_id: Optional[str]) -> Optional[Base]:
        """The base with that state."""
        candidates = list(self.bases.values()) + ([self.pending] if self.pending else [])
        return next((base for base in candidates if base.state_id == state_id), None)

    def newest(self) -> Optional[Base]:
        """The base made last: the one of the highest level, since lower levels replace higher ones."""
        return self.pending or (self.bases[max(self.bases)] if self.bases else None)

    def propose(self, base: Base) -> None:
        """A dump was made; it is not in its store yet."""
        self.pending = base
        self._save()

    def confirm(self, state_id: str) -> None:
        """The pending dump of that state is in its store; idempotent."""
        pending = self.pending
        if pending is None or pending.state_id != state_id:
            return
        self.bases = {level: base for level, base in self.bases.items() if level < pending.level}
        self.bases[pending.level] = pending
        self.pending = None
        self._save()

    def lower(self, state_id: str, level: int, dump_id: str) -> None:
        """The dump of that state has been merged: a dump of a lower ``level`` has it now, and takes the place of what was the
        base of that level. A no-op where no base has the state, or none of a higher level; idempotent."""
        base = next((base for base in self.bases.values() if base.state_id == state_id), None)
        if base is None or base.level <= level:
            return
        self.bases = {other: kept for other, kept in self.bases.items() if other < level or other > base.level}
        self.bases[level] = replace(base, level=level, dump_id=dump_id)
        self._save()

    def begin_with(self, base: Base) -> None:
        """At a new home: this base, and no other."""
        self.bases = {base.level: base}
        self.pending = None
        self._save()

    def reject(self) -> None:
        """The pending dump never reached its store; idempotent."""
        self.pending = None
        self._save()

    def states(self) -> Set[str]:
        """All states named."""
        return {base.state_id for base in self._all()}

    def labels(self) -> Set[str]:
        """All clones named."""
        return {base.label for base in self._all()}

    def _all(self) -> Set[Base]:
        return set(self.bases.values()) | ({self.pending} if self.pending else set())

    def _save(self) -> None:
        picture = {
            "bases": {str(level): asdict(base) for level, base in self.bases.items()},
            "pending": asdict(self.pending) if self.pending else None,
        }
        durable.write_file(self._path, json.dumps(picture).encode())
