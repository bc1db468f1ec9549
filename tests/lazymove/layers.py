"""An overlay on a throw-away file system, over a plain directory, and the tree that it is to be folded into."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.core.copying import copy_tree
from voltool.agent.lazymove.folding import FoldPlace
from voltool.agent.lazymove.overlay import Layers, mount, prepare, unmount


class Rig:
    """``layers.lower`` is shown at ``layers.path``; ``place.tree`` is a copy of it. In a directory of its own, in ``home``."""

    def __init__(self, home: Path, fill: Callable[[bytes], None]) -> None:
        home.mkdir()
        self.home = os.fsencode(home)
        self.layers = Layers(*(os.path.join(self.home, name) for name in (b"lower", b"upper", b"work", b"shown")))
        os.mkdir(self.layers.lower)
        os.mkdir(self.layers.path)
        fill(self.layers.lower)
        self.place = FoldPlace(self.layers.upper, os.path.join(self.home, b"tree"), os.path.join(self.home, b"scratch"))
        os.mkdir(self.place.scratch)
        copy_tree(self.layers.lower, self.place.tree)
        prepare(self.layers)
        mount(self.layers)

    def before(self) -> bytes:
        """A copy of what is shown."""
        copy = os.path.join(self.home, b"before")
        copy_tree(self.layers.path, copy)
        return copy

    def close(self) -> None:
        """Take the mount off."""
        unmount(self.layers.path)
