"""Two epochs of one volume: who has to give way. Pure; ships to servers."""

from __future__ import annotations

from voltool.model import Epoch
from voltool.wire import replicas


def judge_epoch(own: Epoch, heard: Epoch) -> str:
    """What is to become of a home with ``own`` that hears of another one's: an outcome of `HearEpoch`."""
    if own.number > heard.number or (own.number, own.token) == (heard.number, heard.token):
        return replicas.MINE
    return replicas.SPLIT if own.number == heard.number else replicas.RETIRED_NOW
