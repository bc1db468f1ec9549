"""The agent, and the reader that lies in every store, as one file each: a zip of voltool's own modules (and, for the agent,
of mfusepy's one file) that python3 runs. The same sources give the same bytes."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import voltool
from voltool.errors import HostError

#: What runs without an installation, on Python 3.9 and the standard library: these packages, and every module directly below
#: voltool.
SHIPPED_PACKAGES = ("agent", "alone", "dumpfile", "tree", "volumes", "wire")
#: What servers get of it, and what lies in stores.
AGENT_PACKAGES = tuple(name for name in SHIPPED_PACKAGES if name != "alone")
READER_PACKAGES = ("alone", "dumpfile", "tree")
#: Of others, what servers get with the agent: libfuse by ctypes, which `voltool.fuse` uses.
_FUSE = "mfusepy"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file knows


@dataclass(frozen=True)
class ShippedAgent:
    """The zip file and its SHA-256 (hex), which is its name on servers."""

    data: bytes
    digest: str


@functools.lru_cache(maxsize=1)
def build_agent() -> ShippedAgent:
    """The agent of this voltool."""
    data = _build("agent", AGENT_PACKAGES, foreign=(_FUSE,))
    return ShippedAgent(data, hashlib.sha256(data).hexdigest())


@functools.lru_cache(maxsize=1)
def build_reader() -> bytes:
    """The stand-alone reader of this voltool: ``python3 voltool.pyz``."""
    return _build("alone", READER_PACKAGES)


def _build(main: str, packages: Sequence[str], foreign: Sequence[str] = ()) -> bytes:
    root = Path(voltool.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        _add(archive, "__main__.py", (root / main / "__main__.py").read_bytes())
        for path in shipped_files(root, packages):
            _add(archive, f"voltool/{path.relative_to(root).as_posix()}", path.read_bytes())
        for name in foreign:
            _add(archive, f"{name}.py", _source_of(name))
    return buffer.getvalue()


def _source_of(name: str) -> bytes:
    """The one file of an installed module, as it is, its licence at the top. It is not imported: it may need what only servers
    have."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise HostError(f"the module {name} is not installed", remedy="install voltool anew, with what it requires")
    return Path(spec.origin).read_bytes()


def shipped_files(root: Path, packages: Sequence[str] = SHIPPED_PACKAGES) -> Iterator[Path]:
    """The modules that are shipped, in a fixed order."""
    yield from sorted(path for path in root.glob("*.py") if path.name != "__main__.py")
    for package in packages:
        yield from sorted((root / package).rglob("*.py"), key=os.fspath)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
