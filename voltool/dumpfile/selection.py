"""Some paths of a complete manifest and all below them, with their parents (``--only``). Ships to servers."""

from __future__ import annotations

import stat
from typing import Dict, Iterable, List, Sequence, Set

from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.chain import Chain
from voltool.errors import NotFoundError
from voltool.model import ROOT_OBJECT
from voltool.showing import shown


class Selection:
    """Which objects and entries of a chain's manifest belong to the selected paths. Bits, not objects, in memory."""

    def __init__(self, chain: Chain, paths: Iterable[Sequence[bytes]]) -> None:
        """``paths`` as names from the root on. NotFoundError (``what`` is the path, escaped) for one that is not there."""
        self.objects = Bitmap()
        self._whole = Bitmap()
        self._partly: Dict[int, Set[bytes]] = {}
        self._directories = Bitmap()
        for record in chain.objects():
            if stat.S_ISDIR(int.from_bytes(record[8:12], "big")):
                self._directories.add(int.from_bytes(record[:8], "big"))
        self.objects.add(ROOT_OBJECT)
        for path in paths:
            self._add_below(chain, self._add_path(chain, path))

    def has_object(self, number: int) -> bool:
        """Whether the object is selected, or a parent of what is."""
        return number in self.objects

    def has_entry(self, record: bytes) -> bool:
        """Whether an entry record is."""
        directory = int.from_bytes(record[:8], "big")
        return directory in self._whole or record[8:-9] in self._partly.get(directory, ())

    def _add_path(self, chain: Chain, path: Sequence[bytes]) -> int:
        number = ROOT_OBJECT
        for name in path:
            found = next(chain.entries_of(number, name), None)
            if found is None:
                raise NotFoundError(
                    f"there is no {shown(b'/'.join(path))} in this dump",
                    where=chain.newest.name,
                    remedy="voltool ls shows what is in it; --at chooses another point in time",
                )
            self._partly.setdefault(number, set()).add(name)
            number = found[1]
            self.objects.add(number)
        return number

    def _add_below(self, chain: Chain, top: int) -> None:
        waiting: List[int] = [top]
        while waiting:
            directory = waiting.pop()
            if directory not in self._directories or directory in self._whole:
                continue
            self._whole.add(directory)
            for _name, child in chain.entries_of(directory):
                self.objects.add(child)
                waiting.append(child)
