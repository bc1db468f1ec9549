"""What a restore in place may touch: all, or the selected paths alone; and what it never takes away. Pure. Ships to servers."""

from __future__ import annotations

from typing import Sequence

from voltool.tree.excluding import Excluder

OWN = b".voltool"
LOST_AND_FOUND = b"lost+found"


class Scope:
    """``only``: selected paths from the root on (empty: everything). ``delete``: what the dump does not have goes."""

    def __init__(self, only: Sequence[bytes], excludes: Sequence[bytes], *, delete: bool) -> None:
        self._only = tuple(path for path in only if path)
        self.whole = not only or b"" in only
        self.delete = delete
        self._excluder = Excluder(excludes)

    def inside(self, path: bytes) -> bool:
        """Whether the object at ``path`` (``b""``: the root) is selected, and not only on the way to what is."""
        return self.whole or any(path == one or path.startswith(one + b"/") for one in self._only)

    def keeps(self, directory: bytes, name: bytes) -> bool:
        """Whether what the dump does not have stays all the same: the volume's exclusions, what is voltool's own, and what
        belongs to a file system's root."""
        return name == OWN or (not directory and name == LOST_AND_FOUND) or self._excluder.matches(directory, name)
