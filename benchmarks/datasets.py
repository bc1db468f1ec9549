"""The two data sets, the same bytes on each machine: many small files, and a few large half-compressible ones.

Knows nothing of the tools that are compared.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_WORDS = b"the volume is in use while the clone is dumped and what changed meanwhile follows in an incremental ".split()
#: A file's times; older than anything a tool could call recent.
_MTIME = 1_700_000_000
#: How finely noise and words alternate.
_COARSE, _FINE = 2 * KIB, 128


@dataclass(frozen=True)
class DataSet:
    """A data set as it was built: its name, files, directories and bytes."""

    name: str
    files: int
    directories: int
    bytes: int


def build(name: str, root: str, scale: float) -> DataSet:
    """Build the data set ``name`` (``small`` or ``large``), times ``scale``, in the existing directory ``root``."""
    return {"small": _build_small, "large": _build_large}[name](root, scale)


def change(name: str, root: str, turn: int) -> int:
    """Change 1 % of the set, the same places in each ``turn`` with other content; returns how many bytes."""
    return {"small": _change_small, "large": _change_large}[name](root, turn)


def _text(size: int, seed: int) -> bytes:
    """Words in random order: lz4 shrinks them to a third or so."""
    rng = random.Random(seed)
    return b" ".join(rng.choices(_WORDS, k=size // 4))[:size]


class _Content:
    """Half-compressible bytes: ``grain`` bytes of noise, as many of words, and so on; no two places are alike."""

    def __init__(self, seed: int, grain: int) -> None:
        self._grain = grain
        self._random = random.Random(seed)
        self._text = _text(MIB, seed=1)

    def take(self, size: int) -> bytes:
        pieces = []
        grain = self._grain
        noise = self._random.randbytes((size + 1) // 2 + grain)
        start = self._random.randrange(MIB // 2)
        for at in range(0, (size + 1) // 2, grain):
            pieces.append(noise[at : at + grain])
            begin = (start + at) % (MIB - grain)
            pieces.append(self._text[begin : begin + grain])
        return b"".join(pieces)[:size]


def _small_files(root: str, scale: float) -> Iterator[tuple[str, int]]:
    """Paths and sizes: 0.1 to 16 KiB, evenly spread on a logarithmic scale (a median of 1.3 KiB, a mean of 3.1)."""
    rng = random.Random(2)
    directories = max(1, round(2000 * scale))
    for number in range(max(1, round(100_000 * scale))):
        directory = number % directories
        size = round(math.exp(rng.uniform(math.log(0.1 * KIB), math.log(16 * KIB))))
        yield os.path.join(root, f"group{directory // 50:02d}", f"dir{directory:04d}", f"file{number:06d}.txt"), size


def _build_small(root: str, scale: float) -> DataSet:
    content = _Content(3, _FINE)
    made: set[str] = set()
    files = total = 0
    for path, size in _small_files(root, scale):
        parent = os.path.dirname(path)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        _write(path, content.take(size))
        files += 1
        total += size
    return DataSet("small", files, len(made), total)


def _build_large(root: str, scale: float) -> DataSet:
    size = max(4 * MIB, round(GIB * scale) // MIB * MIB)
    for number in range(4):
        content = _Content(10 + number, _COARSE)
        path = os.path.join(root, f"large{number}.bin")
        with open(path, "wb") as file:
            file.writelines(content.take(MIB) for _ in range(size // MIB))
        os.utime(path, (_MTIME, _MTIME))
    return DataSet("large", 4, 1, 4 * size)


def _change_small(root: str, turn: int) -> int:
    content = _Content(1000 + turn, _FINE)
    changed = 0
    paths = sorted(os.path.join(place, name) for place, _dirs, names in os.walk(root) for name in names)
    for path in paths[::100]:
        size = os.stat(path).st_size
        with open(path, "r+b") as file:
            file.write(content.take(size))
        changed += size
    return changed


def _change_large(root: str, turn: int) -> int:
    content = _Content(1000 + turn, _COARSE)
    places = random.Random(4)
    changed = 0
    for number in range(4):
        path = os.path.join(root, f"large{number}.bin")
        blocks = os.stat(path).st_size // (64 * KIB)
        with open(path, "r+b") as file:
            for block in sorted(places.sample(range(blocks), max(1, blocks // 100))):
                file.seek(block * 64 * KIB)
                file.write(content.take(64 * KIB))
                changed += 64 * KIB
    return changed


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)
    os.utime(path, (_MTIME, _MTIME))
