"""The restore job: open the chain, check it, stream it merged to the target's agent, which publishes last.

Everything that can be checked without reading all data is checked before the target's host is asked for anything.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from voltool.backup.chains import OpenedChain, open_chain
from voltool.backup.paths import resolve_paths
from voltool.backup.ports import World
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.merge import Merge
from voltool.dumpfile.selection import Selection
from voltool.errors import EXIT_DONE, EXIT_PARTIAL, AgentError, UsageError
from voltool.model import FileProblem, StoredDump
from voltool.wire.conversation import Conversation
from voltool.wire.messages import EndOfData, RestoreReady, RestoreReply, StartRestore

#: Small pieces of the stream travel together, in bytes.
_SEND = 1 << 18


@dataclass(frozen=True)
class RestoreOutcome:
    """What was restored; ``exit_code`` 3 where the content of some files is not what it was (``problems``)."""

    dump_ids: tuple[str, ...]
    target: str
    entries: int
    bytes: int
    seconds: float
    problems: tuple[FileProblem, ...]
    exit_code: int


def restore(
    world: World,
    dump: StoredDump,
    target_host: str,
    target_path: bytes,
    *,
    only: Sequence[bytes] = (),
    numeric_owner: bool = False,
    workers: int = 0,
    bandwidth: int = 0,
) -> RestoreOutcome:
    """Restore ``dump`` to ``target_path`` on ``target_host``; an interrupted restore of the same goes on.

    ``only``: paths relative to the volume's root (a leading ``/`` is that root), or absolute as they were on the source.
    ``bandwidth`` in bytes/s, 0: unlimited. Raises IntegrityError before or after, but never with the target published;
    NotFoundError for a path that is not in the dump; what the agent raises (RefusedError, SpaceError, ...).
    """
    if not target_path.startswith(b"/"):
        raise UsageError("the target must be an absolute path", why=os.fsdecode(target_path))
    began = time.monotonic()
    with open_chain(world, dump, "restoring it") as opened:
        paths = resolve_paths(opened.chain, only)
        selection = Selection(opened.chain, paths) if only else None
        merge = Merge(opened.chain, selection=selection)
        request = StartRestore(
            target=target_path,
            volume_uuid=dump.header.volume_uuid,
            state_id=opened.chain.totals.state_id,
            selection=digest_of(paths) if only else "",
            into_existing=bool(only),
            numeric_owner=numeric_owner,
            workers=workers,
            bandwidth=bandwidth,
            total_bytes=merge.total_bytes,
            volume_name=dump.header.volume_name,
            least_bytes=_least_bytes(opened.chain) if selection is None else 0,
            objects=opened.chain.totals.objects if selection is None else 0,
        )
        with world.hosts.connect(target_host) as conversation:
            reply = _converse(conversation, request, opened, merge, selection)
        return RestoreOutcome(
            dump_ids=opened.dump_ids,
            target=f"{target_host}:{os.fsdecode(target_path)}",
            entries=reply.entries,
            bytes=reply.bytes,
            seconds=time.monotonic() - began,
            problems=reply.problems,
            exit_code=EXIT_PARTIAL if reply.problems else EXIT_DONE,
        )


def _converse(
    conversation: Conversation,
    request: StartRestore,
    opened: OpenedChain,
    merge: Merge,
    selection: Selection | None,
) -> RestoreReply:
    conversation.send(request)
    ready = conversation.receive()
    if not isinstance(ready, RestoreReady):
        raise AgentError("the agent does not follow the protocol", where=os.fsdecode(request.target))
    if ready.resume_after:
        merge = Merge(opened.chain, resume_after=ready.resume_after, selection=selection)
    send_stream(conversation, merge)
    conversation.send(EndOfData())
    reply = conversation.receive()
    if not isinstance(reply, RestoreReply):
        raise AgentError("the agent does not follow the protocol", where=os.fsdecode(request.target))
    return reply


def _least_bytes(chain: Chain) -> int:
    """What the tree holds beside holes: a lone dump knows; of a chain nobody does before it is merged."""
    return chain.totals.data_bytes if len(chain.readers) == 1 else 0


def send_stream(conversation: Conversation, merge: Merge) -> None:
    """Send the stream; the agent takes it no faster than it was told to."""
    waiting = bytearray()
    for piece in merge.stream():
        waiting += piece
        if len(waiting) >= _SEND:
            conversation.send_data(waiting)
            waiting = bytearray()
    conversation.send_data(waiting)


def digest_of(paths: Sequence[Sequence[bytes]]) -> str:
    """What stands for a selection of paths."""
    joined = b"\0\0".join(b"\0".join(path) for path in paths)
    return hashlib.sha256(b"voltool selection\0" + joined).hexdigest()
