"""A chain of dump files to a tree on this machine, by the same merge and the same apply as everywhere."""

from __future__ import annotations

import contextlib
import os

from voltool.dumpfile.chain import Chain
from voltool.dumpfile.merge import Merge
from voltool.errors import NotFoundError
from voltool.events import Reporter
from voltool.showing import shown
from voltool.tree.apply.applier import Applied, Applier, ApplySettings
from voltool.tree.apply.staging import StagingKey, open_staging

_MOST_WORKERS = 4


def restore(chain: Chain, target: bytes, reporter: Reporter, *, numeric_owner: bool) -> Applied:
    """Restore the chain to ``target``, which must not exist or be empty; an interrupted one goes on.

    Raises IntegrityError, RefusedError, SpaceError, NotFoundError; the target is published last.
    """
    header = chain.header
    parent, name = os.path.split(os.path.abspath(target))
    if not name:
        raise NotFoundError("a restore needs a directory of its own", where=shown(target), remedy="another directory")
    path = os.path.join(os.path.realpath(parent), name)
    key = StagingKey(path, header.volume_uuid, chain.totals.state_id, "")
    with contextlib.ExitStack() as stack:
        staging = open_staging(key, into_existing=False)
        stack.callback(staging.close)
        merge = Merge(chain, resume_after=staging.progress.resume_after)
        settings = ApplySettings(
            key=key,
            numeric_owner=numeric_owner,
            workers=max(1, min(_MOST_WORKERS, len(os.sched_getaffinity(0)))),
            subject=header.volume_name,
            total_bytes=merge.total_bytes,
        )
        applier = Applier(staging, settings, reporter)
        stack.callback(applier.close)
        for piece in merge.stream():
            applier.feed(piece)
        return applier.finish()
