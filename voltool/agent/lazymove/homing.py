"""The long-running process of a lazy move at the new home: ``home ID``. It mounts, fills, ends the move, tells the old home.

It comes back after a reboot or a kill by its unit, or by ``voltool move --resume``, and goes on from the records: nothing starts
on an empty directory meanwhile, for what stands at the path is a sealed placeholder. Ships to servers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import syslog
import time
from typing import Callable, Optional

from voltool.agent.daemon_life import Life
from voltool.agent.fetching.keys import drop_identity, kept_identity
from voltool.agent.fetching.reaching import link_with, make_pool
from voltool.agent.host import HostState
from voltool.agent.lazy.mounted import clear_mounts
from voltool.agent.lazy.service import LazyService, LazySettings
from voltool.agent.lazy.sources import Fetcher
from voltool.agent.lazymove import overlay
from voltool.agent.lazymove.ending import Ending
from voltool.agent.lazymove.given import GivenFirst, Nobody, Renewed
from voltool.agent.lazymove.home import LazyHome, let_go
from voltool.errors import VoltoolError
from voltool.model import PUBLISHED, ROOT_OBJECT
from voltool.tree.apply.attributes import Attributes
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.losses import Losses
from voltool.tree.apply.owners import Owners
from voltool.tree.apply.ready import make_ready, publish_ready
from voltool.volumes.moving.records import MoveBook
from voltool.wire.moving import ReleaseRetired
from voltool.wire.replicas import FetchSource

#: Pauses before what did not work is tried again, seconds: doubled from the first to the last.
_SOON, _LATE = 1.0, 60.0
#: The old home is told for so long; later ``voltool move --resume`` does it.
_TELLING = 86_400.0
_CONNECT = 10.0
_TICK = 0.2


def run(identity: str, host: HostState, life: Life) -> None:
    """See `agent.daemon_life`."""
    home = find(host, identity)
    if home is not None and _Homing(home, life).run():
        retire(home)
    elif home is None:
        drop_identity(host, identity)
        life.daemon.retire()


def find(host: HostState, move_id: str) -> Optional[LazyHome]:
    """The home of that move, ended or not; None: there is none."""
    for move in MoveBook(host.directory).targets():
        if move.move_id == move_id:
            return LazyHome(host, move)
    return None


def retire(home: LazyHome) -> None:
    """Nothing is left to be done: key, records and directory of it go. Idempotent. From inside the process."""
    let_go(home)
    home.daemon.retire()


class _Homing:
    def __init__(self, home: LazyHome, life: Life) -> None:
        self._home = home
        self._life = life
        self._ending = Ending(home)
        self._service: Optional[LazyService] = None

    def run(self) -> bool:
        """Whether all is done, the old home's being told included."""
        if self._is_lazy():
            if self._ending.has_begun() or self._is_whole():
                self._end_whole()
            else:
                self._fill()
        return not self._is_lazy() and self._tell_old_home()

    def _is_lazy(self) -> bool:
        move = self._home.current()
        return move is not None and move.lazy

    # ----------------------------------------------------------------------------------------------------------- fill

    def _fill(self) -> None:
        home = self._home
        overlay.unmount(home.layers.path)  # what a dead process has left answers nobody
        with contextlib.closing(home.open_staging()) as staging:
            held = HeldTree(staging)
            store = home.open_store(held)
            home.make_lower()
            settings = LazySettings(
                home.layers.lower, home.move.name, home.status_file, bandwidth=home.wishes().bandwidth
            )
            service = LazyService(
                store,
                settings,
                self._fetcher,
                lambda: self._publish_and_end(held),
                self._log,
                mounted_anew=home.show_anew,
            )
            self._service = service
            service.run(self._ready)

    def _ready(self) -> None:
        self._home.prepare_layers()
        self._home.show_anew()
        self._life.tell()

    def _fetcher(self) -> Fetcher:
        return Renewed(self._home.version, self._make_fetcher)

    def _make_fetcher(self) -> Fetcher:
        wishes = self._home.wishes()
        others: Fetcher = Nobody()
        if wishes.sources:
            others = make_pool(self._home.host, self._home.move.move_id, wishes.sources, wishes.timeout).fetcher()
        return GivenFirst(wishes.given, others)

    def _is_whole(self) -> bool:
        """Everything has come; a run that was cut off while it gave the tree its name is brought to its end."""
        home = self._home
        if not home.has_staging():
            return home.is_whole()
        with contextlib.closing(home.open_staging()) as staging:
            held = HeldTree(staging)
            if held.record is None:
                return False
            self._publish(held)
        return home.is_whole()

    def _publish(self, held: HeldTree) -> None:
        """Everything has come: the tree stands at ``next``, and its states are kept. Repeatable."""
        losses = Losses()
        losses.merge(held.kept_losses())
        owners = Owners(numeric=False)
        held.learn_owners(owners, [])
        attributes = Attributes(owners, losses)
        make_ready(held, attributes, losses)
        with contextlib.closing(held.state()) as state:
            root = state.object(ROOT_OBJECT)
        assert root is not None
        self._home.keep_states(held)
        publish_ready(held, attributes, losses, root)

    def _publish_and_end(self, held: HeldTree) -> None:
        self._publish(held)
        self._end()

    # ------------------------------------------------------------------------------------------------------------ end

    def _end_whole(self) -> None:
        """All has come before this process began: until the lock can be had the plain tree stands below the overlay."""
        home = self._home
        if not self._ending.has_begun():
            overlay.unmount(home.layers.path)
            clear_mounts(home.layers.lower)
            home.layers = dataclasses.replace(home.layers, lower=home.place.next)
            home.show()
        self._life.tell()
        self._end()

    def _end(self) -> None:
        """Until it is done, or we shall end: who writes too long is waited for another time."""
        pause = _SOON
        while not self._is_stopping() and self._is_lazy():
            if not self._is_published():
                self._nap(_TICK)
                continue
            try:
                self._ending.run()
            except VoltoolError as error:
                self._life.tell(waiting=str(error))
                self._log(f"the move cannot end yet: {error}")
                self._nap(pause)
                pause = min(_LATE, pause * 2)
        if not self._is_lazy():
            self._life.tell()

    def _is_published(self) -> bool:
        move = self._home.current()
        return move is not None and move.phase == PUBLISHED

    def _is_stopping(self) -> bool:
        return self._life.ending.is_set() or (self._service is not None and self._service.is_ending)

    def _nap(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._is_stopping():
            time.sleep(_TICK)

    # ----------------------------------------------------------------------------------------------------------- tell

    def _tell_old_home(self) -> bool:
        """That its copy is needed no more. True also when it is given up."""
        self._life.tell()
        until, pause = time.monotonic() + _TELLING, _SOON
        while time.monotonic() < until:
            if self._is_stopping():
                return False
            sources = self._home.wishes().sources  # others may have been written down meanwhile
            if not sources or _tell(self._home, sources[0], self._log):
                break
            self._nap(pause)
            pause = min(_LATE, pause * 2)
        return True

    def _log(self, line: str) -> None:
        syslog.syslog(syslog.LOG_WARNING, f"{self._home.move.name}: {line}")


def _tell(home: LazyHome, source: FetchSource, log: Callable[[str], None]) -> bool:
    try:
        identity = kept_identity(home.host, home.move.move_id)
        link = link_with(home.host, home.move.move_id, identity, source, _CONNECT)
        try:
            link.send(ReleaseRetired(home.move.uuid, home.move.move_id))
            link.receive(_CONNECT)
        finally:
            link.close()
    except VoltoolError as error:
        log(f"the old home cannot be told that all has come: {error}")
        return False
    return True
