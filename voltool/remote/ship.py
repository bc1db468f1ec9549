"""The agent, and the reader that lies in every store, as one file each: a zip of voltool's own modules (and, for the agent,
of mfusepy's one file) that python3 runs. The same sources give the same bytes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import marshal
import os
import sys
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
#: How the kept agent's name begins; PEP 552's flags; marshal's version without references.
_KEPT = "voltool-agent-"
_UNCHECKED = 0b01
_PLAIN = 2
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file knows


@dataclass(frozen=True)
class ShippedAgent:
    """The zip file and its SHA-256 (hex), which is its name on servers."""

    data: bytes
    digest: str


@functools.lru_cache(maxsize=1)
def build_agent() -> ShippedAgent:
    """The agent of this voltool."""
    kept = _kept_agent()
    try:
        data = kept.read_bytes()
    except OSError:
        data = _build("agent", AGENT_PACKAGES, foreign=(_FUSE,), compiled=True)
        if not sys.dont_write_bytecode:
            _keep(kept, data)
    return ShippedAgent(data, hashlib.sha256(data).hexdigest())


def _kept_agent() -> Path:
    """Where the agent of these very sources is kept, by this Python."""
    root = Path(voltool.__file__).parent
    key = hashlib.sha256(importlib.util.MAGIC_NUMBER)
    for path in (*shipped_files(root, AGENT_PACKAGES), Path(__file__), _origin_of(_FUSE)):
        status = path.stat()
        key.update(f"{path} {status.st_mtime_ns} {status.st_size}\n".encode())
    place = Path(importlib.util.cache_from_source(__file__)).parent
    return place / f"{_KEPT}{key.hexdigest()[:32]}.pyz"


def _keep(path: Path, data: bytes) -> None:
    """Atomically; in the place of what was kept of other sources. Where that may not be written to, nothing is kept."""
    temporary = path.with_suffix(f".{os.getpid()}.new")
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
        for other in path.parent.glob(f"{_KEPT}*.pyz"):
            if other != path:
                other.unlink()


@functools.lru_cache(maxsize=1)
def build_reader() -> bytes:
    """The stand-alone reader of this voltool: ``python3 voltool.pyz``."""
    return _build("alone", READER_PACKAGES)


def _build(main: str, packages: Sequence[str], foreign: Sequence[str] = (), *, compiled: bool = False) -> bytes:
    root = Path(voltool.__file__).parent
    files = [("__main__.py", root / main / "__main__.py")]
    files += [(f"voltool/{path.relative_to(root).as_posix()}", path) for path in shipped_files(root, packages)]
    files += [(f"{name}.py", _origin_of(name)) for name in foreign]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, path in files:
            _add(archive, name, path.read_bytes())
            if compiled:
                _add(archive, f"{name}c", _compiled(name, path))
    return buffer.getvalue()


def _compiled(name: str, path: Path) -> bytes:
    """The .pyc of a module. Of marshal's versions the one that writes the same bytes for the same code each time."""
    source = path.read_bytes()
    code = compile(source, name, "exec", dont_inherit=True)
    head = importlib.util.MAGIC_NUMBER + _UNCHECKED.to_bytes(4, "little") + importlib.util.source_hash(source)
    return head + marshal.dumps(code, _PLAIN)


def _origin_of(name: str) -> Path:
    """The one file of an installed module, as it is, its licence at the top. It is not imported: it may need what only servers
    have."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise HostError(f"the module {name} is not installed", remedy="install voltool anew, with what it requires")
    return Path(spec.origin)


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
