"""The verb KeepState: a dump is published in its store, so what it left here becomes the base of the next level. It may also be
one that was merged in the store: then what an incremental left here becomes the base of a lower level.

Ships to servers.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from voltool import durable
from voltool.agent.bases import BaseBook
from voltool.agent.clones import is_replicas, is_users
from voltool.agent.host import HostState
from voltool.agent.replica.out_place import tidy_replicas
from voltool.tree.state import StateKeeper
from voltool.volumes.contract import Driver
from voltool.volumes.records import VolumeHome, open_home
from voltool.volumes.registry import driver_named
from voltool.wire import messages
from voltool.wire.conversation import Conversation


def keep_state(request: messages.KeepState, conversation: Conversation, host: HostState) -> messages.Message:
    """Handle `KeepState`."""
    del conversation
    home = open_home(host.directory, request.uuid, request.path)
    with home.lock(f"keep {request.dump_id}"):
        book = BaseBook(home.area)
        book.confirm(request.state_id)
        book.lower(request.state_id, request.level, request.dump_id)
        tidy(home, driver_named(home.record.driver), book)
    return messages.Done()


def tidy(home: VolumeHome, driver: Driver, book: BaseBook) -> None:
    """Drop every clone of a dump and every state that is no base, and what an interrupted dump left; of replicas' clones those
    that are too old."""
    for clone in driver.clones(home.record):
        if clone.label not in book.labels() and not is_users(clone) and not is_replicas(clone):
            driver.drop(home.record, clone)
    tidy_replicas(home, driver)
    StateKeeper(os.path.join(home.area, b"states")).keep_only(book.states())
    _remove_unfinished(os.path.join(home.area, b"clones"), snapshots=home.record.driver == "btrfs")
    shutil.rmtree(os.path.join(home.area, b"tmp"), ignore_errors=True)


def _remove_unfinished(clones: bytes, *, snapshots: bool) -> None:
    """Notes of clones whose writer was killed: while it wrote them, or (``snapshots``: clones lie beside their notes) before
    it made the clone or after it dropped it. Nobody makes a clone while the volume's lock is ours."""
    with contextlib.suppress(FileNotFoundError):
        names = set(os.listdir(clones))
        for name in names:
            alone = snapshots and name.endswith(b".json") and name[: -len(b".json")] not in names
            if alone or name.endswith(b".json.new"):
                durable.remove_file(os.path.join(clones, name))
