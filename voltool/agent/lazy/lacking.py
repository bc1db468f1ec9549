"""The verb AskMissing: what a lazy replica lacks, by name, and a directory on its host where that may be. Ships to servers.

For when whoever has the files is lost: a restored dump stands in for him. Every byte is checked against the manifest as always.
"""

from __future__ import annotations

import dataclasses
import os
from typing import List

from voltool.agent.host import HostState
from voltool.agent.lazy.book import LazyBook, LazyWishes
from voltool.agent.lazy.index import TreeIndex
from voltool.agent.lazy.saved import objects_present
from voltool.agent.lazy.shared import PRESENT
from voltool.agent.lazy.start import lazy_status
from voltool.agent.lazy.store import INDEX
from voltool.agent.replica.place import staging_of
from voltool.agent.replica.records import ReplicaBook
from voltool.errors import NotFoundError, RefusedError
from voltool.model import LAZY, ReplicaRecord
from voltool.showing import shown
from voltool.wire.conversation import Conversation
from voltool.wire.replicas import AskMissing, MissingReply


def ask_missing(request: AskMissing, conversation: Conversation, host: HostState) -> MissingReply:
    """Handle `AskMissing`. NotFoundError without a replica; RefusedError for a directory that is none."""
    del conversation
    record = ReplicaBook(host.directory).find(request.uuid)
    if record is None:
        raise NotFoundError("this host has no replica of the volume", remedy="voltool replica list")
    if record.phase != LAZY:
        return MissingReply(record.phase)
    if request.given:
        _look_there(record, request.given, host)
    status = lazy_status(host, record)
    paths = missing_paths(staging_of(record)) if request.most else []
    some = paths[request.first : request.first + request.most]
    return MissingReply(
        record.phase, status.missing_files, status.missing_bytes, status.running, status.faults, tuple(some)
    )


def missing_paths(staging: bytes) -> List[bytes]:
    """Files that have not come to a staging, sorted, as it was last made durable: each by one of its names."""
    try:
        index = TreeIndex(os.path.join(staging, INDEX))
    except (OSError, ValueError, KeyError):
        return []
    present = objects_present(staging, index)
    return sorted(
        index.path(position)
        for position in range(index.count)
        if not index.is_directory(position) and present[position] != PRESENT
    )


def _look_there(record: ReplicaRecord, given: bytes, host: HostState) -> None:
    """From now on; its process is started where it does not run."""
    if not os.path.isdir(given):
        raise RefusedError(
            "there is no such directory", where=shown(given), remedy="a directory on the replica's host, as it is there"
        )
    book = LazyBook(host, record.replica_id)
    with book.daemon.controlled():
        before = book.wishes() or LazyWishes(record.uuid, ())
        wishes = before
        if given not in before.given:
            wishes = dataclasses.replace(before, given=(*before.given, given))
        running = book.daemon.running()
        if running is None or not running.ready:
            book.save(wishes)
            book.daemon.start(f"voltool: fills the lazy replica of {record.name}")
        elif wishes != before:
            book.save(wishes)  # it looks
