"""``volumes.json`` in a store: whose dumps lie there. The one module that knows its form. No I/O.

Whoever can write to the store can write anything into it: what is malformed is named and passed over, never believed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from voltool.errors import UsageError
from voltool.model import KnownVolume
from voltool.ssh.resolve import parse_host
from voltool.stores.naming import check_volume_name

NAME = "volumes.json"
_FORMAT = 1
_UUID = re.compile(r"[0-9a-f]{32}")
_WORD = re.compile(r"[ -~]{0,255}")
_DRIVER = re.compile(r"[a-z0-9-]{1,32}")
_LOCAL = "local"


@dataclass(frozen=True)
class ListedVolume:
    """A volume as a store has it. ``epoch``: of its newest dump when that was written. ``by``: the identity of the
    catalog that said so. ``removed``: that catalog has removed the volume since; its dumps are still there."""

    volume: KnownVolume
    epoch: int = 0
    by: str = ""
    removed: bool = False


@dataclass(frozen=True)
class VolumeList:
    """The volumes, and the version of the voltool that wrote the list and the reader beside it. ``newer``: in a form that only
    a later voltool knows; then nothing else is said."""

    volumes: tuple[ListedVolume, ...] = ()
    tool_version: str = ""
    newer: bool = False


def encode(volumes: Iterable[ListedVolume], tool_version: str) -> bytes:
    """The file's bytes; the same for the same volumes."""
    entries = [
        {
            "uuid": listed.volume.uuid,
            "name": listed.volume.name,
            "host": listed.volume.host,
            "path": os.fsdecode(listed.volume.path),
            "driver": listed.volume.driver,
            "excludes": [os.fsdecode(glob) for glob in listed.volume.excludes],
            "hostname": listed.volume.hostname,
            "machine_id": listed.volume.machine_id,
            "epoch": listed.epoch,
            "by": listed.by,
            "removed": listed.removed,
        }
        for listed in sorted(volumes, key=lambda listed: listed.volume.uuid)
    ]
    content = {"format": _FORMAT, "tool_version": tool_version, "volumes": entries}
    return json.dumps(content, indent=1).encode() + b"\n"


def decode(data: bytes, passed_over: Callable[[str], None]) -> VolumeList:
    """What the file says; ``passed_over`` is told of each part that is malformed."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, Mapping) or type(content.get("format")) is not int:
        passed_over("it is not a list of volumes")
        return VolumeList()
    version = content.get("tool_version")
    version = version if isinstance(version, str) and _WORD.fullmatch(version) else ""
    if content["format"] > _FORMAT:
        return VolumeList(tool_version=version, newer=True)
    entries = content.get("volumes")
    found: dict[str, ListedVolume] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else (), 1):
        try:
            listed = _listed(entry)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            passed_over(f"its entry {number} is malformed ({ascii(str(error))[:80]})")
        else:
            found[listed.volume.uuid] = listed
    return VolumeList(tuple(found.values()), version)


def _listed(entry: Any) -> ListedVolume:
    host = _text(entry, "host")
    if host != _LOCAL:
        parse_host(host)
    check_volume_name(_text(entry, "name"))
    path = os.fsencode(_text(entry, "path"))
    if not path.startswith(b"/") or b"\0" in path:
        raise ValueError("path")
    excludes = tuple(os.fsencode(_is_text(glob)) for glob in entry["excludes"])
    volume = KnownVolume(
        uuid=_matched(_UUID, entry, "uuid"),
        name=_text(entry, "name"),
        host=host,
        path=path,
        driver=_matched(_DRIVER, entry, "driver"),
        excludes=excludes,
        hostname=_matched(_WORD, entry, "hostname"),
        machine_id=_matched(_WORD, entry, "machine_id"),
    )
    epoch, removed = entry["epoch"], entry["removed"]
    if type(epoch) is not int or not 0 <= epoch < 1 << 63 or not isinstance(removed, bool):
        raise ValueError("epoch")
    return ListedVolume(volume, epoch, _matched(_WORD, entry, "by"), removed)


def _text(entry: Any, key: str) -> str:
    return _is_text(entry[key])


def _is_text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1 << 16 or "\0" in value:
        raise TypeError("text is wanted")
    return value


def _matched(pattern: re.Pattern[str], entry: Any, key: str) -> str:
    text = _text(entry, key)
    if not pattern.fullmatch(text):
        raise ValueError(key)
    return text
