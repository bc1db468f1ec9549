"""A staging that is kept up to date instead of being published at once: it *holds* a state, and increments bring it further.

The tree stays in its flat form (`files.flat_path`), so that a renamed directory costs nothing; the state it holds, with its
manifest, lies beside it in ``states/``. ``held.json`` says durably which state that is, and whether an increment is being
applied: applying can be repeated, from the increment's own file. Ships to servers.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Iterable, List, Optional

from voltool import durable
from voltool.dumpfile import format as fmt
from voltool.errors import HostError
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.staging import Staging
from voltool.tree.state import BaseState, StateKeeper

_RECORD = b"held.json"
_OWNERS = b"owners"
_STATES = b"states"
_LOSSES = b"losses.json"
INCREMENT = b"increment"


@dataclass(frozen=True)
class HeldRecord:
    """``state_id``: what the tree holds, unless ``applying``, then it is between that and what the increment leads to.

    ``assembled``: its directories stand in each other, ready to be published.
    """

    state_id: str
    applying: bool = False
    assembled: bool = False


class HeldTree:
    """The state held in a staging. ``record`` is None where nothing has arrived completely.

    ``states`` and ``increment``: where manifests are kept and an increment waits, if not in the staging. ``shared``: files of the
    tree may be hard links to those of another one, which is in use: what is changed gets an inode of its own.
    """

    def __init__(self, staging: Staging, *, states: bytes = b"", increment: bytes = b"", shared: bool = False) -> None:
        self.staging = staging
        self.keeper = StateKeeper(states or os.path.join(staging.path, _STATES))
        self.increment_path = increment or os.path.join(staging.path, INCREMENT)
        self.shared = shared
        #: The state with the stamps of what is no part, where only parts of the tree are taken apart (`apply.parts`).
        self.stamped = ""
        self.record = self._load()

    def _load(self) -> Optional[HeldRecord]:
        try:
            with open(os.path.join(self.staging.path, _RECORD), "rb") as file:
                return HeldRecord(**json.load(file))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, record: HeldRecord) -> None:
        """Make it durable. What it promises must be on disk (`Staging.sync`)."""
        durable.write_file(os.path.join(self.staging.path, _RECORD), json.dumps(asdict(record)).encode())
        self.record = record

    def keep_losses(self, losses: Losses) -> None:
        """Before `save` says that the tree holds what came with them: what could not be held is not forgotten when the session is
        cut off."""
        text = losses.text()
        if text:
            durable.write_file(os.path.join(self.staging.path, _LOSSES), text)

    def kept_losses(self) -> bytes:
        """For `Losses.merge`."""
        try:
            with open(os.path.join(self.staging.path, _LOSSES), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def state(self) -> BaseState:
        """The manifest of what is held; the caller closes it. HostError where it cannot be read."""
        state = self.keeper.open(self.record.state_id) if self.record is not None else None
        if state is None:
            raise HostError(
                "the staged copy's manifest cannot be read",
                where=os.fsdecode(self.staging.path),
                remedy="voltool move --abort, or voltool replica remove, and begin anew",
            )
        return state

    def learn_owners(self, owners: Owners, records: Iterable[bytes]) -> None:
        """Add OWNERS records to those kept from earlier dumps, and let ``owners`` know them all."""
        known = {record[: fmt.OWNER.size]: record for record in self._kept_owners()}
        fresh = {record[: fmt.OWNER.size]: record for record in records}
        if any(known.get(key) != record for key, record in fresh.items()):
            known.update(fresh)
            durable.write_file(os.path.join(self.staging.path, _OWNERS), fmt.pack_records(sorted(known.values())))
        owners.learn(sorted(known.values()))

    def _kept_owners(self) -> List[bytes]:
        try:
            with open(os.path.join(self.staging.path, _OWNERS), "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return []
        count = position = 0
        while position < len(data):
            position += 4 + int.from_bytes(data[position : position + 4], "big")
            count += 1
        return fmt.unpack_records(data, count)
