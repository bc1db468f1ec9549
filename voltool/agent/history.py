"""The verb ReadActs: what agents did on this host, out of its own record (`acts`). Ships to servers."""

from __future__ import annotations

import json
import os
from typing import Dict, Iterator, List, Optional, Tuple

from voltool.agent.host import HostState
from voltool.wire import messages
from voltool.wire.conversation import Conversation

#: What changes nothing is no history.
_ASKED_ONLY = frozenset(
    {
        "CheckHost",
        "ShowVolume",
        "ListVolumes",
        "ListClones",
        "ListMoves",
        "ListRetired",
        "ReadActs",
        "Examine",
        "PlanOut",
        "PlanIn",
    }
)
#: No more of the log than this is read, from its end (bytes).
_MOST = 64 << 20


def read_acts(request: messages.ReadActs, conversation: Conversation, host: HostState) -> messages.ActsReply:
    """Handle `ReadActs`."""
    del conversation
    running: Dict[Tuple[str, str], messages.Act] = {}
    acts: List[messages.Act] = []
    for line in _lines(os.path.join(host.directory, b"log")):
        act = _parse(line)
        if act is None or act.act in _ASKED_ONLY or (request.uuid and act.uuid != request.uuid):
            continue
        key = (str(line.get("pid")), act.act)
        if act.result == "begin":
            unfinished = running.pop(key, None)  # the agent that had this pid before was killed
            acts += [unfinished] if unfinished is not None else []
            running[key] = act
        else:
            begun = running.pop(key, None)
            acts.append(act if begun is None else messages.Act(**{**begun.__dict__, "result": act.result}))
    acts += running.values()
    acts.sort(key=lambda act: act.time)
    return messages.ActsReply(tuple(acts[-request.limit :]))


def _lines(path: bytes) -> Iterator[Dict[str, object]]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - it may not be there
    except FileNotFoundError:
        return
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > _MOST:
            file.seek(size - _MOST)
            file.readline()
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue  # cut off by a crash
            if isinstance(content, dict):
                yield content


def _parse(line: Dict[str, object]) -> Optional[messages.Act]:
    if not line.get("time") or not line.get("act"):
        return None
    login = str(line.get("sudo_user") or line.get("login") or "")
    return messages.Act(
        time=str(line["time"]),
        act=str(line["act"]),
        uuid=str(line.get("uuid", "")),
        name=str(line.get("name", "")),
        what=str(line.get("what") or line.get("target") or line.get("path") or ""),
        result=str(line.get("result", "")),
        login=login,
        caller=str(line.get("caller", "")),
    )
