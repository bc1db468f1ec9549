"""Home stamps for a state of which only the manifest is known, borrowed from another state of the same volume. Ships to servers.

After a move the new home has the stamps of what was sent last, and the bases of dump levels are older. Object numbers are for
life: where both manifests have the very same record of a number, the inode that holds it now holds what the base says. Any
other stamp is borrowed unsettled: which inode it is counts, but it is read and compared. Numbers that by some accident mean
something else cost time and nothing more, since what is dumped is the difference of two complete manifests.
"""

from __future__ import annotations

import os
from typing import Optional

from voltool import durable
from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.tree.stamps import HOME, NO_LAYOUT, SETTLED, SIZE
from voltool.tree.state import BaseState, StateKeeper


def borrow_stamps(keeper: StateKeeper, base: BaseState, lender: BaseState) -> Optional[BaseState]:
    """``base``, which has no stamps, opened again with those of ``lender``; None where the two have too little in common."""
    if lender.stamps is None:
        return None
    known, same = Bitmap(), Bitmap()
    equal = total = 0
    others = iter(lender.objects)
    other = next(others, None)
    for record in base.objects:
        total += 1
        key = record[:8]
        known.add(int.from_bytes(key, "big"))
        while other is not None and other[:8] < key:
            other = next(others, None)
        if record == other:
            equal += 1
            same.add(int.from_bytes(key, "big"))
    if equal * 2 < total:
        return None
    _write(os.path.join(keeper.directory, base.state_id.encode(), b"stamps"), lender, known, same)
    base.close()
    return keeper.open(base.state_id)


def _write(path: bytes, lender: BaseState, known: Bitmap, same: Bitmap) -> None:
    assert lender.stamps is not None
    with open(path + b".new", "wb", buffering=1 << 20) as file:
        for home in lender.stamps:
            inode, number, stamp, flags, layout = HOME.unpack(home)
            if number not in known:
                continue
            flags = flags & SETTLED if number in same else 0  # no clone is this base's own
            # The base's own block files are known by no layout.
            if number not in same or int.from_bytes(stamp[SIZE], "big") > fmt.CHUNK_SIZE:
                layout = NO_LAYOUT
            file.write(HOME.pack(inode, number, stamp, flags, layout))
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + b".new", path)
    durable.fsync_directory(os.path.dirname(path))
