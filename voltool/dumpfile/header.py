"""The HEADER frame: a `DumpHeader` as JSON. docs/dump-format.md lists the fields. Ships to servers.

Unknown fields are ignored: a newer voltool that adds a vital one sets an incompatible feature bit in the preamble.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Dict

from voltool.dumpfile.format import MAX_HEADER_JSON, damaged
from voltool.model import Consistency, DumpHeader, Epoch

HASH_ALGORITHM = "sha256-tree"


def encode_header(header: DumpHeader) -> bytes:
    """The header's JSON, keys sorted; bytes (paths, globs) as base64."""
    picture = {
        "dump_id": header.dump_id,
        "volume_uuid": header.volume_uuid,
        "volume_name": header.volume_name,
        "level": header.level,
        "sequence": header.sequence,
        "epoch": {"number": header.epoch.number, "token": header.epoch.token, "host": header.epoch.host},
        "clone_time_ns": header.clone_time_ns,
        "boot_id": header.boot_id,
        "host": header.host,
        "driver": header.driver,
        "consistency": header.consistency.value,
        "source_path": _text(header.source_path),
        "base_state_id": header.base_state_id,
        "base_dump_id": header.base_dump_id,
        "excludes": [_text(glob) for glob in header.excludes],
        "hash_algorithm": header.hash_algorithm,
        "tool_version": header.tool_version,
        "machine_id": header.machine_id,
    }
    return json.dumps(picture, sort_keys=True).encode()


def decode_header(data: bytes, where: str = "") -> DumpHeader:
    """The header from its JSON; IntegrityError when it is not one, or hashed in a way this version does not know."""
    if len(data) > MAX_HEADER_JSON:
        raise damaged("the header is absurdly long", where)
    try:
        header = _header_of(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged("the header cannot be read", where) from None
    if header.hash_algorithm != HASH_ALGORITHM:
        raise damaged(f"its hash algorithm {header.hash_algorithm!r} is not known here", where)
    if not 0 <= header.level <= 9 or (header.level == 0) != (header.base_state_id is None):
        raise damaged("its level and its base do not fit together", where)
    return header


def _header_of(picture: Dict[str, Any]) -> DumpHeader:
    epoch = picture["epoch"]
    return DumpHeader(
        dump_id=str(picture["dump_id"]),
        volume_uuid=str(picture["volume_uuid"]),
        volume_name=str(picture["volume_name"]),
        level=int(picture["level"]),
        sequence=int(picture["sequence"]),
        epoch=Epoch(int(epoch["number"]), str(epoch["token"]), str(epoch["host"])),
        clone_time_ns=int(picture["clone_time_ns"]),
        boot_id=str(picture["boot_id"]),
        host=str(picture["host"]),
        driver=str(picture["driver"]),
        consistency=Consistency(picture["consistency"]),
        source_path=_bytes(picture["source_path"]),
        base_state_id=picture["base_state_id"],
        base_dump_id=picture["base_dump_id"],
        excludes=tuple(_bytes(glob) for glob in picture["excludes"]),
        hash_algorithm=str(picture["hash_algorithm"]),
        tool_version=str(picture["tool_version"]),
        machine_id=str(picture.get("machine_id", "")),
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
