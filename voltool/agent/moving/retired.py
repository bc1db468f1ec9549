"""The retired copies that moves have left on this host: listing them, and purging one. Ships to servers."""

from __future__ import annotations

import contextlib
import os

from voltool import durable
from voltool.agent.host import HostState
from voltool.errors import NotFoundError, RefusedError
from voltool.model import RETIRED, SourceMove
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.moving import placeholder
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.removal import remove_tree, tree_size
from voltool.wire import moving
from voltool.wire.conversation import Conversation


def list_retired(
    request: moving.ListRetired,  # noqa: ARG001 - a handler's signature
    conversation: Conversation,  # noqa: ARG001
    host: HostState,
) -> moving.RetiredReply:
    """Handle `ListRetired`."""
    book = MoveBook(host.directory)
    moves = [move for move in (*book.sources(), *book.archived()) if move.phase == RETIRED]
    found = [move for move in moves if os.path.isdir(move.retired_path)]
    return moving.RetiredReply(tuple(moving.RetiredCopy(move, tree_size(move.retired_path)) for move in found))


def purge_retired(request: moving.PurgeRetired, conversation: Conversation, host: HostState) -> moving.RetiredReply:
    """Handle `PurgeRetired`. Raises NotFoundError; RefusedError for a volume that has not moved away, or is still here."""
    del conversation
    book = MoveBook(host.directory)
    archived = next((move for move in book.archived() if move.uuid == request.uuid), None)
    if archived is not None:
        return _purge_archived(book, archived)
    move = book.source(request.uuid)
    if move is None:
        raise NotFoundError("this host has no retired copy of the volume", remedy="voltool retired list")
    if move.phase != RETIRED:
        raise RefusedError(
            "the volume's move is not complete: this may be its only copy",
            where=shown(move.path),
            why=f"it is {move.phase}",
            remedy=f"voltool move --resume {move.name}",
        )
    if move.lazy:
        raise RefusedError(
            "the new home has not fetched everything yet",
            where=shown(move.retired_path),
            why=f"it is filled from this copy: {move.target.host}:{shown(move.target.path)}",
            remedy=f"voltool move --status {move.name} says how far it is",
        )
    size = tree_size(move.retired_path) if os.path.isdir(move.retired_path) else 0
    placeholder.remove(move)
    remove_tree(os.path.dirname(move.retired_path))
    own = os.path.dirname(os.path.dirname(move.retired_path))
    if os.path.isdir(own):
        durable.fsync_directory(own)
        with contextlib.suppress(OSError):
            os.rmdir(own)  # nothing else of voltool is there
    for entry in records.list_entries(host.directory):
        if entry.uuid == move.uuid and entry.forgotten:
            records.drop_entry(host.directory, entry)
    book.remove_source(move.uuid, os.path.dirname(move.retired_path))
    return moving.RetiredReply((moving.RetiredCopy(move, size),))


def aside_list(move: SourceMove) -> bytes:
    """The file beside a retired copy that names what the copy alone has, where it has anything."""
    return os.path.join(os.path.dirname(move.retired_path), b"aside-" + move.move_id[:12].encode())


def _purge_archived(book: MoveBook, move: SourceMove) -> moving.RetiredReply:
    """A copy from before the volume came back: beside it everything in its area is in use."""
    size = tree_size(move.retired_path) if os.path.isdir(move.retired_path) else 0
    placeholder.remove(move)
    remove_tree(move.retired_path)
    durable.remove_file(aside_list(move))
    book.remove_archived(move)
    return moving.RetiredReply((moving.RetiredCopy(move, size),))
