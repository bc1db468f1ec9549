"""Paths that a user gives of something in a dump, as names from the volume's root on."""

from __future__ import annotations

from collections.abc import Sequence

from voltool.dumpfile.chain import Chain
from voltool.errors import UsageError


def parts_of(path: bytes) -> list[bytes]:
    """The names of a path in a volume; a leading ``/`` is the volume's root. UsageError for ``..``."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UsageError("a path in a dump cannot have '..'", remedy="the path from the volume's root on")
    return parts


def parts_below(path: bytes, source_path: bytes) -> list[bytes] | None:
    """The names of ``path`` below the place where the volume stood; None where it is not below it."""
    parts, source = parts_of(path), parts_of(source_path)
    if path.startswith(b"/") and source and parts[: len(source)] == source:
        return parts[len(source) :]
    return None


def resolve_paths(chain: Chain, only: Sequence[bytes]) -> list[list[bytes]]:
    """The selected paths as names; one that is absolute on the source and not in the volume is taken from its root."""
    paths = []
    for path in only:
        parts = parts_of(path)
        below = parts_below(path, chain.header.source_path)
        if below is not None and chain.lookup(parts) is None:
            parts = below
        paths.append(parts)
    return sorted(paths)
