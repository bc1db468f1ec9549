"""What was young when it was read out of a clone, and need not be read again though its stamp says nothing: the file system
vouches for its bytes. Ships to servers.

A file is young while what was written to it may still be on its way, and lands under the ctime that it has already. So an equal
stamp is not enough. That each extent is the same one in both clones is, since nothing is written in place in either; and
attributes change with a ctime of their own.
"""

from __future__ import annotations

import stat
from typing import Callable, NamedTuple, Optional

from voltool.tree.opening import is_settled_in_clone
from voltool.tree.stamps import FLAGS_AT, SETTLED, decode_stamp, is_frozen_before


class Vouched(NamedTuple):
    """``base_time_ns``: the host's clock just before the base's clone was made, ``clone_time_ns``: that of now. ``same_bytes``:
    `volumes.contract.SameBytes` of the two."""

    base_time_ns: int
    clone_time_ns: int
    same_bytes: Callable[[int], bool]

    def same(self, home: bytes, mode: int) -> Optional[bytes]:
        """The home stamp of what still has the stamp of ``home``, and is as it was; None: it must be read again. It is settled
        where it would be if it were read out of the clone of now."""
        if not is_frozen_before(home, self.base_time_ns):
            return None
        inode = int.from_bytes(home[:8], "big")
        try:
            if stat.S_ISREG(mode) and not self.same_bytes(inode):
                return None
        except OSError:  # then nobody knows
            return None
        flags = home[FLAGS_AT]
        if is_settled_in_clone(None, self.clone_time_ns, inode, decode_stamp(home[16:FLAGS_AT]).ctime):
            flags |= SETTLED
        return home[:FLAGS_AT] + bytes([flags]) + home[FLAGS_AT + 1 :]
