"""The table of verbs: which handler answers which request. Part of what is shipped to servers.

A handler is ``handle(request, conversation, host)``; it returns the reply and raises VoltoolError. Modules with handlers
are imported when their verb comes, so that the agent starts fast.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict, Tuple

from voltool.agent.host import HostState
from voltool.wire import doors, messages, moving, paths, replicas, serving, tunnel
from voltool.wire.conversation import Conversation

Handler = Callable[[Any, Conversation, HostState], messages.Message]

_TABLE: Dict[type, Tuple[str, str]] = {
    messages.CheckHost: ("voltool.agent.check", "check_host"),
    messages.CleanHost: ("voltool.agent.clean", "clean_host"),
    messages.AdoptVolume: ("voltool.agent.adopt", "adopt_volume"),
    messages.ShowVolume: ("voltool.agent.adopt", "show_volume"),
    messages.ListVolumes: ("voltool.agent.adopt", "list_volumes"),
    messages.ForgetVolume: ("voltool.agent.adopt", "forget_volume"),
    messages.StartDump: ("voltool.agent.dump", "dump"),
    messages.EstimateDump: ("voltool.agent.estimate", "estimate"),
    messages.KeepState: ("voltool.agent.keep", "keep_state"),
    messages.LockVolume: ("voltool.agent.lock", "lock_volume"),
    messages.UnlockVolume: ("voltool.agent.lock", "unlock_volume"),
    messages.StartRestore: ("voltool.agent.restore", "restore"),
    messages.StartInPlace: ("voltool.agent.inplace", "restore_in_place"),
    messages.MakeClone: ("voltool.agent.clones", "make_clone"),
    messages.ListClones: ("voltool.agent.clones", "list_clones"),
    moving.MoveOut: ("voltool.agent.moving.out", "move_out"),
    moving.MoveIn: ("voltool.agent.moving.into", "move_in"),
    moving.ListRetired: ("voltool.agent.moving.retired", "list_retired"),
    moving.PurgeRetired: ("voltool.agent.moving.retired", "purge_retired"),
    moving.ListMoves: ("voltool.agent.moving.out", "list_moves"),
    messages.ReadActs: ("voltool.agent.history", "read_acts"),
    messages.Examine: ("voltool.agent.doctor", "examine"),
    moving.PlanOut: ("voltool.agent.moving.plan", "plan_out"),
    moving.PlanIn: ("voltool.agent.moving.plan", "plan_in"),
    replicas.HearEpoch: ("voltool.agent.replica.hearing", "hear_epoch"),
    replicas.ShowStanding: ("voltool.agent.replica.standing", "show_standing"),
    replicas.SendBeginning: ("voltool.agent.replica.standing", "send_beginning"),
    replicas.ChooseHome: ("voltool.agent.replica.choosing", "choose_home"),
    replicas.ReplicaOut: ("voltool.agent.replica.out", "replica_out"),
    replicas.ReplicaIn: ("voltool.agent.replica.into", "replica_in"),
    replicas.ListReplicas: ("voltool.agent.replica.status", "list_replicas"),
    messages.DropClone: ("voltool.agent.clones", "drop_clone"),
    moving.AskFill: ("voltool.agent.lazymove.fill", "ask_fill"),
    moving.ReleaseRetired: ("voltool.agent.fetching.served", "release_retired"),
    replicas.AskMissing: ("voltool.agent.lazy.lacking", "ask_missing"),
    serving.MakeIdentity: ("voltool.agent.fetching.keys", "answer_identity"),
    serving.ServeFiles: ("voltool.agent.fetching.served", "serve_files"),
    serving.StopServing: ("voltool.agent.fetching.served", "stop_serving"),
    doors.OpenDoor: ("voltool.agent.door.book", "open_door"),
    doors.AwaitGuests: ("voltool.agent.door.book", "await_guests"),
    doors.CloseDoor: ("voltool.agent.door.book", "close_door"),
    tunnel.EnterTunnel: ("voltool.agent.fetching.relaying", "enter_tunnel"),
    tunnel.LeaveTunnel: ("voltool.agent.fetching.relaying", "leave_tunnel"),
    paths.PreparePath: ("voltool.agent.path.negotiation", "prepare_path"),
    paths.ListenForPath: ("voltool.agent.path.negotiation", "listen_for_path"),
    paths.JoinPath: ("voltool.agent.path.negotiation", "join_path"),
    paths.AwaitPath: ("voltool.agent.path.negotiation", "await_path"),
    paths.ClosePath: ("voltool.agent.path.negotiation", "close_path"),
}


def find_handler(request: object) -> Handler:
    """The handler of a request; KeyError for a message that is not a request."""
    module, function = _TABLE[type(request)]
    handler: Handler = getattr(importlib.import_module(module), function)
    return handler
