"""The verb ChooseHome: of several homes of one volume this one is it. Ships to servers."""

from __future__ import annotations

import dataclasses

from voltool.agent.host import HostState
from voltool.agent.replica.promoting import finish
from voltool.agent.replica.promotion import HostPromotion
from voltool.agent.replica.splitting import open_again
from voltool.errors import RefusedError
from voltool.showing import shown
from voltool.volumes import records
from voltool.volumes.splits import remove_split
from voltool.wire import replicas
from voltool.wire.conversation import Conversation


def choose_home(
    request: replicas.ChooseHome,
    conversation: Conversation,  # noqa: ARG001 - a handler's signature
    host: HostState,
) -> replicas.Promoted:
    """Handle `ChooseHome`. Raises RefusedError, NotFoundError, MovedError, BusyError."""
    home = records.open_home(host.directory, request.uuid, b"", split=True)
    with home.lock("a choice between two homes"):
        record = records.read_record(home.area) or home.record
        own = record.epoch
        if (own.number, own.token) != (request.epoch.number, request.epoch.token):
            if own.number >= request.epoch.number:
                raise RefusedError(
                    "the volume has a later epoch here",
                    where=shown(record.path),
                    why=f"epoch {own.number}",
                    remedy=f"voltool replica list {record.name}",
                )
            sequence = max(record.sequence, request.sequence)
            home.save(dataclasses.replace(record, epoch=request.epoch, sequence=sequence))
        remove_split(home.area)
        open_again(host, home)
        finish(HostPromotion(host, request.uuid))  # where its promotion was cut off after the commit
    return replicas.Promoted(home.record)
