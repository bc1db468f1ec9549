"""The agent as one file: a zip of voltool's own modules that python3 runs. The same sources give the same bytes."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import voltool

#: What servers get: these packages, and every module directly below voltool.
SHIPPED_PACKAGES = ("agent", "dumpfile", "tree", "volumes", "wire")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file knows


@dataclass(frozen=True)
class ShippedAgent:
    """The zip file and its SHA-256 (hex), which is its name on servers."""

    data: bytes
    digest: str


@functools.lru_cache(maxsize=1)
def build_agent() -> ShippedAgent:
    """The agent of this voltool."""
    root = Path(voltool.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        _add(archive, "__main__.py", (root / "agent" / "__main__.py").read_bytes())
        for path in shipped_files(root):
            _add(archive, f"voltool/{path.relative_to(root).as_posix()}", path.read_bytes())
    data = buffer.getvalue()
    return ShippedAgent(data, hashlib.sha256(data).hexdigest())


def shipped_files(root: Path) -> Iterator[Path]:
    """The modules that are shipped, in a fixed order."""
    yield from sorted(path for path in root.glob("*.py") if path.name != "__main__.py")
    for package in SHIPPED_PACKAGES:
        yield from sorted((root / package).rglob("*.py"), key=os.fspath)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
