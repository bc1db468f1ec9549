"""What the inodes of a copied tree were in the tree that it was copied from. Ships to servers.

A snapshot's inodes are the volume's own. A clone that was made file by file has inodes of its own, but what is remembered of
a dump must be compared with the live volume next time: so the clone is read, and the volume's inode numbers and stamps are
recorded. Knows nothing of how a clone is made or kept.
"""

from __future__ import annotations

import os
from typing import Optional, Protocol, Tuple


class Origins(Protocol):
    """The origins of all inodes of one clone. A *source* is an inode number of the volume."""

    #: What was mounted inside the volume and is not in the clone: paths from the root.
    skipped: Tuple[bytes, ...]
    #: When the clone was begun: what moved ahead of its passes left its place after that.
    began_ns: int

    def status(self, status: os.stat_result) -> os.stat_result:
        """What stat(2) said of the volume's inode when it was cloned, given that of the clone's. Raises OSError (ESTALE)
        for what was not in the clone when that was made."""

    def settled(self, source: int) -> bool:
        """Whether it was at rest when it was cloned: equal stamps will mean equal content."""

    def fuzzy(self, source: int) -> bool:
        """Whether that directory changed faster than it could be listed: its clone may lack names."""


def original(origins: Optional[Origins], status: os.stat_result) -> os.stat_result:
    """``status`` itself where inodes are the volume's own (None), else its origin. Raises OSError."""
    return status if origins is None else origins.status(status)
