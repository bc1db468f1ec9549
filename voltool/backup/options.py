"""The options of a dump out of the configuration: the command line wins over the volume's section, that one over the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from voltool.config.quantity import parse_bytes
from voltool.errors import UsageError

if TYPE_CHECKING:
    from voltool.backup.dump import DumpOptions
    from voltool.config.settings import Settings


def dump_options(settings: Settings, name: str, store: str, given: Mapping[str, object]) -> DumpOptions:
    """For volume ``name``, into ``store``. ``given``: ``level`` and what else the user has said; None and what is missing:
    nothing. UsageError."""
    from voltool.backup.dump import DumpOptions

    section = settings.volume(name)
    codec = given.get("codec") or section.codec or settings.codec
    if codec not in ("lz4", "none"):
        raise UsageError(f"there is no codec {codec!a}", remedy="--codec lz4 or --codec none")
    bandwidth = given.get("bandwidth")
    return DumpOptions(
        level=_number(given, "level", 0),
        store=store,
        codec=str(codec),
        bandwidth=settings.bandwidth if bandwidth is None else parse_bytes(str(bandwidth)),
        nice=_number(given, "nice", settings.nice),
        idle_io=settings.idle_io if given.get("idle_io") is None else bool(given["idle_io"]),
        dry_run=bool(given.get("dry_run")),
        workers=_number(given, "workers", settings.workers),
        unstable_ok=tuple(glob.encode("utf-8", "surrogateescape") for glob in section.unstable_ok),
        min_free_percent=settings.min_free,
        hooks=section.hooks,
    )


def _number(given: Mapping[str, object], key: str, default: int) -> int:
    value = given.get(key)
    if value is None:
        return default
    assert isinstance(value, int)
    return value
