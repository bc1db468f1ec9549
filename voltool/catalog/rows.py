"""Dumps as rows of the catalog's tables. Pure: no I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from voltool.errors import AgentError
from voltool.model import Consistency, DumpHeader, DumpTotals, Epoch, FileProblem, StoredDump
from voltool.wire import codec

_NO_PROBLEMS = "[]"


@dataclass(frozen=True)
class _Origin:
    """What of a header has no column of its own."""

    epoch: Epoch
    boot_id: str
    host: str
    driver: str
    source_path: bytes
    excludes: tuple[bytes, ...] = ()
    hash_algorithm: str = "sha256-tree"
    tool_version: str = ""
    machine_id: str = ""


_ORIGIN_FIELDS = tuple(field.name for field in fields(_Origin))


def values_of(dump: StoredDump) -> dict[str, object]:
    """The row of a dump."""
    header, totals = dump.header, dump.totals
    return {
        "dump_id": header.dump_id,
        "volume_uuid": header.volume_uuid,
        "volume_name": header.volume_name,
        "level": header.level,
        "sequence": header.sequence,
        "clone_time_ns": header.clone_time_ns,
        "consistency": header.consistency.value,
        "state_id": totals.state_id,
        "base_state_id": header.base_state_id,
        "base_dump_id": header.base_dump_id,
        "entries": totals.entries,
        "objects": totals.objects,
        "data_bytes": totals.data_bytes,
        "stored_bytes": totals.stored_bytes,
        "seconds": dump.seconds,
        "store": dump.store,
        "file": dump.file,
        "problem_count": len(dump.problems),
        "problems": _compact([codec.to_plain(problem) for problem in dump.problems]),
        "origin": _compact({name: codec.to_plain(getattr(header, name)) for name in _ORIGIN_FIELDS}),
    }


class DumpDecoder:
    """Dumps out of rows; remembers the origins it has seen, for a volume's dumps share them."""

    def __init__(self) -> None:
        self._origins: dict[str, _Origin] = {}
        self._consistencies = {kind.value: kind for kind in Consistency}

    def dump(self, row: Sequence[Any]) -> StoredDump:
        """The dump of a row with all columns, in the table's order. AgentError or JSONDecodeError where it makes no sense."""
        (
            dump_id, volume_uuid, volume_name, level, sequence, clone_time_ns, consistency, state_id, base_state_id,
            base_dump_id, entries, objects, data_bytes, stored_bytes, seconds, store, file, _count, problems, origin_text,
        ) = row  # fmt: skip
        kind = self._consistencies.get(consistency)
        if kind is None:
            raise AgentError("a row makes no sense", why=f"{consistency!a} is no consistency")
        origin = self._origins.get(origin_text) or self._origin(origin_text)
        header = DumpHeader(
            dump_id,
            volume_uuid,
            volume_name,
            level,
            sequence,
            origin.epoch,
            clone_time_ns,
            origin.boot_id,
            origin.host,
            origin.driver,
            kind,
            origin.source_path,
            base_state_id,
            base_dump_id,
            origin.excludes,
            origin.hash_algorithm,
            origin.tool_version,
            origin.machine_id,
        )
        totals = DumpTotals(state_id, entries, objects, data_bytes, stored_bytes)
        return StoredDump(header, totals, store, file, seconds, _problems(problems))

    def _origin(self, text: str) -> _Origin:
        origin: _Origin = codec.from_plain(_Origin, json.loads(text))
        self._origins[text] = origin
        return origin


def _problems(text: str) -> tuple[FileProblem, ...]:
    if text == _NO_PROBLEMS:
        return ()
    return tuple(codec.from_plain(FileProblem, plain) for plain in json.loads(text))


def _compact(plain: object) -> str:
    return json.dumps(plain, separators=(",", ":"))
