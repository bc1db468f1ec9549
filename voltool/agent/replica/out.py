"""The session with a volume's home about one of its replicas: its messages are in `wire.replicas`. Ships to servers.

Unlike a move's session it holds the volume's lock file for the moment of each clone alone; what it holds for as long as it lasts
is the lock of the replica's own place.
"""

from __future__ import annotations

from voltool.agent.dump import dump_home
from voltool.agent.fetching.served import end_serving
from voltool.agent.host import HostState
from voltool.agent.replica.manifest_out import dump_manifest
from voltool.agent.replica.out_ground import BaseKeeper, ReplicaGround
from voltool.agent.replica.out_place import OutPlace, OutRecord
from voltool.errors import AgentError
from voltool.events import Notice
from voltool.model import Consistency, ReplicaBase
from voltool.volumes.records import VolumeHome, open_home
from voltool.volumes.registry import driver_named
from voltool.wire import messages, replicas
from voltool.wire.conversation import Conversation

_WITH_BASE, _WITHOUT_BASE = 9, 0


def replica_out(request: replicas.ReplicaOut, conversation: Conversation, host: HostState) -> messages.Message:
    """Handle `ReplicaOut` and the steps of its session. Raises BusyError, RefusedError, NotFoundError, MovedError."""
    home = open_home(host.directory, request.uuid, request.path)
    place = OutPlace(home.area, request.replica_id)
    with place.lock(f"sync of replica {request.replica_id}"):
        session = _Session(request, conversation, host, home, place)
        conversation.send(replicas.ReplicaSource(home.record, session.base))
        return session.serve()


class _Session:
    """One session; `serve` until it ends."""

    def __init__(
        self,
        request: replicas.ReplicaOut,
        conversation: Conversation,
        host: HostState,
        home: VolumeHome,
        place: OutPlace,
    ) -> None:
        self._request = request
        self._conversation = conversation
        self._host = host
        self._home = home
        self._place = place
        self._told_live = False
        nothing = ReplicaBase(request.replica_id, request.uuid, request.replica, "", 0, 0)
        self._keeper = BaseKeeper(place, OutRecord(nothing, request.base_age))

    @property
    def base(self) -> str:
        """The state that the replica is known to have."""
        return self._keeper.record.base.state_id

    def serve(self) -> messages.Message:
        """Carry out steps until `EndReplica`."""
        while True:
            step = self._conversation.receive()
            if isinstance(step, replicas.EndReplica):
                return messages.Done()
            self._conversation.send(self._step(step))

    def _step(self, step: object) -> messages.Message:
        if isinstance(step, replicas.StartReplicaDump):
            if step.manifest_only:
                return self._dump_manifest(step)
            end_serving(self._host, self._request.replica_id)  # it is full by now
            return self._dump(step, self._conversation)
        if isinstance(step, replicas.KeepReplicaBase):
            self._keeper.confirm(step.state_id)
            return messages.Done()
        if isinstance(step, replicas.ForgetReplica):
            end_serving(self._host, self._request.replica_id)
            self._place.drop_clones(self._home, driver_named(self._home.record.driver))
            self._place.remove()
            return messages.Done()
        raise AgentError("that is no step of a replica's session with its volume's home", why=type(step).__name__)

    def _dump_manifest(self, step: replicas.StartReplicaDump) -> messages.Message:
        """The files are fetched from the clone, which is not given up meanwhile."""
        home = open_home(self._host.directory, self._request.uuid, self._request.path)
        reply = dump_manifest(step, self._conversation, home, self._place, self._dump)
        self._keeper.pin(pinned=True)
        return reply

    def _dump(self, step: replicas.StartReplicaDump, conversation: Conversation) -> messages.Message:
        """One dump of what the volume is now; it may have moved away since the last one."""
        self._home = home = open_home(self._host.directory, self._request.uuid, self._request.path)
        if step.base_state_id:
            self._keeper.confirm(step.base_state_id)
        ground = ReplicaGround(self._place, home, driver_named(home.record.driver))
        reply = dump_home(self._as_dump(step), conversation, self._host, home, ground)
        if isinstance(reply, messages.DumpReply):
            header, totals = reply.result.header, reply.result.totals
            sent = ReplicaBase(
                self._request.replica_id,
                self._request.uuid,
                self._request.replica,
                totals.state_id,
                header.sequence,
                header.clone_time_ns,
                ground.label if driver_named(home.record.driver).compares else "",
            )
            self._keeper.sent(sent)
            self._keeper.pin(pinned=False)
            self._tell_live(header.consistency)
        return reply

    def _as_dump(self, step: replicas.StartReplicaDump) -> messages.StartDump:
        """Nothing is excluded: a replica may become the volume."""
        return messages.StartDump(
            uuid=self._request.uuid,
            path=self._request.path,
            dump_id=step.dump_id,
            level=_WITH_BASE if step.base_state_id else _WITHOUT_BASE,
            base_state_id=step.base_state_id or None,
            base_dump_id=None,
            codec=step.codec,
            workers=step.workers,
            bandwidth=step.bandwidth,
            complete=True,
            hooks=step.hooks,
            over_path=step.over_path,
        )

    def _tell_live(self, consistency: Consistency) -> None:
        if consistency is Consistency.LIVE and not self._told_live:
            self._told_live = True
            name, driver = self._home.record.name, self._home.record.driver
            message = (
                f"{name}: it was read while it was in use (driver {driver}): the replica is not of one moment,"
                " which is not for a running database"
            )
            self._conversation.report(Notice("warning", message))
