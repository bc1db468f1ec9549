"""What was done to volumes, by whom and when: the hosts' own records, merged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from voltool.errors import UnreachableError
from voltool.events import Notice
from voltool.move.hosts import all_hosts
from voltool.move.ports import World
from voltool.wire import messages
from voltool.wire.conversation import expect

#: What people call the requests.
_WORDS = {
    "AdoptVolume": "volume add",
    "ForgetVolume": "volume remove",
    "StartDump": "dump",
    "KeepState": "dump kept",
    "StartRestore": "restore",
    "StartInPlace": "restore in place",
    "MakeClone": "clone",
    "DropClone": "clone dropped",
    "LockVolume": "lock",
    "UnlockVolume": "unlock",
    "MoveOut": "move out",
    "MoveIn": "move in",
    "PurgeRetired": "retired purge",
    "CleanHost": "host clean",
    "ReplicaOut": "replica sent",
    "ReplicaIn": "replica",
    "HearEpoch": "promotion heard",
}


@dataclass(frozen=True)
class Event:
    """One act on ``host``: at ``time`` by that host's clock, of ``who`` (login there) for ``caller`` (who, where). ``result``:
    ``done``, ``begin`` (it runs, or its agent was killed), or why it failed."""

    time: datetime
    host: str
    act: str
    volume: str
    what: str
    result: str
    who: str
    caller: str


def history(world: World, name: str = "", limit: int = 100) -> list[Event]:
    """The last ``limit`` acts, oldest first; of volume ``name``, or of everything on all known hosts.

    A host that cannot be reached is named in a notice. Raises NotFoundError for a name that nobody knows.
    """
    uuid = world.catalog.volume(name).uuid if name else ""
    names = {volume.uuid: volume.name for volume in world.catalog.volumes()}
    events: list[Event] = []
    for host in all_hosts(world, uuid):
        try:
            with world.hosts.connect(host) as agent:
                agent.send(messages.ReadActs(uuid, limit))
                acts = expect(agent, messages.ActsReply).acts
        except UnreachableError as error:
            world.reporter.report(
                Notice("warning", f"{host}: not reached, its record is missing here: {error.why or error.what}")
            )
            continue
        events += [_event(host, act, names) for act in acts]
    events.sort(key=lambda event: event.time)
    return events[-limit:]


def _event(host: str, act: messages.Act, names: dict[str, str]) -> Event:
    return Event(
        time=datetime.strptime(act.time, "%Y-%m-%dT%H:%M:%S%z"),
        host=host,
        act=_WORDS.get(act.act, act.act),
        volume=act.name or names.get(act.uuid, act.uuid),
        what=act.what,
        result=act.result,
        who=act.login,
        caller=act.caller,
    )
