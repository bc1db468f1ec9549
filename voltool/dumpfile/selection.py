"""A part of a complete manifest: some paths and all below them (``--only``), or some objects. Ships to servers."""

from __future__ import annotations

import stat
from typing import Dict, Iterable, Iterator, List, Protocol, Sequence, Set

from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.chain import Chain
from voltool.errors import NotFoundError
from voltool.model import ROOT_OBJECT
from voltool.showing import shown


class Chosen(Protocol):
    """What of a chain's manifest is wanted."""

    def has_object(self, number: int) -> bool:
        """Whether the object is."""

    def entries(self, chain: Chain) -> Iterator[bytes]:
        """The entry records that are, sorted."""


class NumberSelection:
    """Objects by their numbers, taken out of their directories: each has one name, made of its number, in the root."""

    def __init__(self, numbers: Bitmap) -> None:
        self._numbers = numbers

    def has_object(self, number: int) -> bool:
        """Whether the object is chosen; the root always is."""
        return number == ROOT_OBJECT or number in self._numbers

    def entries(self, chain: Chain) -> Iterator[bytes]:
        """One for each."""
        del chain
        for number in self._numbers.numbers(0, 1 << 63):
            yield fmt.encode_entry(ROOT_OBJECT, b"%016x" % number, number)


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

    def entries(self, chain: Chain) -> Iterator[bytes]:
        """The selected entry records."""
        return filter(self.has_entry, chain.entries())

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
