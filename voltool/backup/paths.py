"""Paths that a user gives of something in a dump, as names from the volume's root on. Pure: no I/O."""

from __future__ import annotations

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
