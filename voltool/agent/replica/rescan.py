"""What a served tree really is, after somebody has changed it: its manifest is made anew; the next sync sends what differs.

It is a dump of the tree that goes nowhere; what has its old stamp is not read. Ships to servers.
"""

from __future__ import annotations

import contextlib
import os

import voltool
from voltool import durable
from voltool.agent.host import HostState
from voltool.agent.replica.place import ReplicaPlace
from voltool.beneath import opened_directory
from voltool.dumpfile import codec as codecs
from voltool.dumpfile.writer import DumpWriter
from voltool.model import Consistency, DumpHeader, Epoch
from voltool.spool import SortedSpool
from voltool.tree.classify import Classifier
from voltool.tree.opening import CaptureSettings
from voltool.tree.produce import Producer
from voltool.tree.state import StateKeeper
from voltool.tree.walk import Walker
from voltool.volumes.traits import synchronize, traits_of

_LABEL = "rescan"


def rescan(place: ReplicaPlace, state_id: str, host: HostState) -> str:
    """The state that the tree at the replica's path is of, kept beside it, made with that of ``state_id`` as its base. Raises
    VoltoolError, OSError."""
    keeper = StateKeeper(place.states)
    live = True
    durable.make_directory(place.directory)
    synchronize(place.path)
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(opened_directory(place.path))
        base = keeper.open(state_id)
        if base is not None:
            stack.callback(base.close)

        def spool() -> SortedSpool:
            made = SortedSpool(place.directory)
            stack.callback(made.close)
            return made

        walk = Walker(
            root, spool(), live=live, excludes=(), mounts=frozenset(), tick=lambda _entries, _size: None
        ).walk()
        classified = Classifier(walk, base, spool, unchanged_counts=base is not None).classify()
        walk.spool.close()
        codec = codecs.codec_named("none")
        moment = os.fstat(root).st_ctime_ns
        leases = traits_of(root).leases
        settings = CaptureSettings(root, live, moment, codec, keeper.key(), leases, keeper.blocks, None)
        state = keeper.create(_LABEL)
        stack.callback(state.abandon)
        writer = DumpWriter(lambda _data: None, codec)
        produced = Producer(
            classified,
            base,
            settings,
            writer,
            state,
            spool,
            workers=1,
            advance=lambda _size, _files: None,
            changed_ranges=lambda _path: None,
        ).produce(_header(place, state_id, host))
        state.publish(produced.totals.state_id, produced.next_number)
    return produced.totals.state_id


def _header(place: ReplicaPlace, state_id: str, host: HostState) -> DumpHeader:
    return DumpHeader(
        dump_id="0" * 32,
        volume_uuid=place.uuid,
        volume_name="",
        level=1,
        sequence=0,
        epoch=Epoch(0, "", ""),
        clone_time_ns=0,
        boot_id=host.boot_id,
        host=host.hostname,
        driver="directory",
        consistency=Consistency.LIVE,
        source_path=place.path,
        base_state_id=state_id,
        tool_version=voltool.__version__,
    )
