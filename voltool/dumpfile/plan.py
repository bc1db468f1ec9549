"""What a merge will take from which dump: one pass over the manifests of a chain, before a byte is written.

The result is bits per object (10 million objects: a few MB), the totals for a progress bar, and the state id, computed
from the records and compared with the newest dump's. Part of what is shipped to servers.
"""

from __future__ import annotations

from array import array
from typing import Iterator, Optional, Sequence

from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.chain import Chain, Version, has_content
from voltool.dumpfile.selection import Chosen
from voltool.errors import IntegrityError


class MergePlan:
    """``wanted[d]``: objects whose content is dump d's alone; ``unwanted[d]``: others that d may have data of;
    ``composed``: objects whose content is put together from several dumps, ascending.

    Objects up to ``resume_after`` are nobody's. ``content_files`` and ``content_bytes`` are what will be sent. Raises
    IntegrityError where the records do not lead to the newest dump's state.
    """

    def __init__(self, chain: Chain, resume_after: int, selection: Optional[Chosen]) -> None:
        self._chain = chain
        self._resume_after = resume_after
        self._selection = selection
        self.wanted = [Bitmap() for _reader in chain.readers]
        self.unwanted = [Bitmap() for _reader in chain.readers]
        self.last_number = [0 for _reader in chain.readers]
        self.composed = array("Q")
        self.composed_set = Bitmap()
        self.content_files = 0
        self.content_bytes = 0
        hasher = fmt.StateHasher()
        self._plan_objects(hasher)
        self._plan_entries(hasher)
        self.state_id = hasher.state_id()
        self.objects = hasher.objects
        self.entries = hasher.entries
        if selection is None:
            self._check_state()

    def elsewhere(self, dump: int, start: int, stop: int) -> bool:
        """Whether an object in ``start <= number < stop`` gets content, but not from ``dump`` alone."""
        return self.composed_set.any_in(start, stop) or any(
            wanted.any_in(start, stop) for other, wanted in enumerate(self.wanted) if other != dump
        )

    def _check_state(self) -> None:
        totals = self._chain.totals
        if (self.state_id, self.objects, self.entries) != (totals.state_id, totals.objects, totals.entries):
            raise IntegrityError(
                "the dumps do not lead to the state the newest one states",
                where=self._chain.newest.name,
                why="a record was altered, or one of the dumps is not the right base",
                remedy="voltool verify names the dump; --at chooses an older point in time",
            )

    def _plan_objects(self, hasher: fmt.StateHasher) -> None:
        where = self._chain.newest.name
        for versions in self._chain.versions():
            record = fmt.decode_object(versions[0].record, where)
            for version in versions:
                self.last_number[version.dump] = record.number
            gone = record.mode == 0
            selected = not gone and (self._selection is None or self._selection.has_object(record.number))
            if selected:
                hasher.add_object(versions[0].record)
            if selected and record.number > self._resume_after and has_content(record):
                self._assign(record, versions)
            elif gone or record.size:
                self._leave_out(record.number, versions)

    def _assign(self, record: fmt.ObjectRecord, versions: Sequence[Version]) -> None:
        self.content_files += 1
        self.content_bytes += record.size
        number = record.number
        if len(versions) == 1:
            self.wanted[versions[0].dump].add(number)
            return
        layers = self._chain.layers(versions)
        source = layers[0].dump if len(layers) == 1 and layers[0].fresh else None
        if source is None:
            self.composed.append(number)
            self.composed_set.add(number)
        for version in versions:
            (self.wanted if version.dump == source else self.unwanted)[version.dump].add(number)

    def _leave_out(self, number: int, versions: Sequence[Version]) -> None:
        for version in versions:
            self.unwanted[version.dump].add(number)

    def _plan_entries(self, hasher: fmt.StateHasher) -> None:
        for record in selected_entries(self._chain, self._selection):
            hasher.add_entry(record)


def selected_entries(chain: Chain, selection: Optional[Chosen]) -> Iterator[bytes]:
    """The entry records of the merged manifest."""
    return chain.entries() if selection is None else selection.entries(chain)


def selected_objects(chain: Chain, selection: Optional[Chosen]) -> Iterator[bytes]:
    """The final object records of the merged manifest."""
    for record in chain.objects():
        if selection is None or selection.has_object(int.from_bytes(record[:8], "big")):
            yield record
