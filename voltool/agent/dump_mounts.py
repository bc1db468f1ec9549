"""What is mounted in a volume is no part of its dump, and that is said. Ships to servers."""

from __future__ import annotations

from typing import Sequence

from voltool.errors import RefusedError
from voltool.events import Notice
from voltool.model import VolumeRecord
from voltool.showing import shown
from voltool.wire.conversation import Conversation

#: How many of them a notice names.
_NAMED = 10


def tell_mounts(skipped: Sequence[bytes], record: VolumeRecord, conversation: Conversation, *, for_move: bool) -> None:
    """Name what was skipped: nothing is left out silently. RefusedError where the volume is to be moved."""
    if not skipped:
        return
    names = ", ".join(shown(path) for path in sorted(skipped)[:_NAMED])
    more = f" and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    if for_move:
        raise RefusedError(
            "the volume cannot be moved as it is",
            where=shown(record.path),
            why=f"other file systems are mounted or subvolumes lie in it: {names}{more}",
            remedy="unmount them, or adopt and move them as volumes of their own",
        )
    message = f"{record.name}: not dumped, since other file systems are mounted or subvolumes lie there: {names}{more}"
    conversation.report(Notice("warning", message))
