"""What a configuration may say, as strict pydantic models; docs/config.md describes it, a test compares the two.

Imports pydantic, so it is imported late. Knows nothing of files.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from voltool.config.quantity import parse_bytes, parse_seconds
from voltool.errors import UsageError
from voltool.model import Hooks


def _amount(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except UsageError as error:
        raise ValueError(f"{error.what}; {error.remedy}") from None


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_seconds(value)
    except UsageError as error:
        raise ValueError(f"{error.what}; {error.remedy}") from None


def _relative_or_bare(pattern: str) -> str:
    if not pattern or "\0" in pattern:
        raise ValueError("a glob is not empty and holds no NUL")
    return pattern


_SFTP_URL = re.compile(r"sftp://(?:[^/?#@:]+@)?[^/?#@]+/[^?#]*")


def _store_url(url: str) -> str:
    if not url.startswith(("/", "file:///")) and not _SFTP_URL.fullmatch(url):
        raise ValueError("a store is an absolute path, a file:///path URL, or sftp://[user@]host[:port]/path")
    return url


_MOST_PORT = 65_535


def _port_range(text: str) -> str:
    found = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
    if text and not (found and 0 < int(found[1]) <= int(found[2]) <= _MOST_PORT):
        raise ValueError("a range of ports is written 50000-50100")
    return text


Ports = Annotated[str, AfterValidator(_port_range)]
Codec = Literal["lz4", "none"]
Glob = Annotated[str, AfterValidator(_relative_or_bare)]


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("a URL that is called begins with http:// or https://")
    return url


StoreUrl = Annotated[str, AfterValidator(_store_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Bandwidth = Annotated[int, BeforeValidator(_amount), Field(ge=0)]
#: Seconds; also written ``90s``, ``10m``, ``2h``, ``7d``.
Duration = Annotated[int, BeforeValidator(_duration), Field(ge=0)]
SyntheticFull = Literal["never", "weekly", "monthly"]
Command = list[str]


class _Strict(BaseModel):
    #: The text below a key is its description in docs/config.md.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class HostSection(_Strict):
    """How to reach a host. NAME is the host as you write it on the command line: ``[hosts.hostA]``,
    ``[hosts."root@10.0.0.1:2222"]``. Address, port, user, keys and jumps belong into ``~/.ssh/config``."""

    transport: Literal["paramiko", "openssh"] = "paramiko"
    """``openssh`` runs the system's ``ssh``: hardware keys, ControlMaster, Kerberos."""
    become: bool = False
    """Run the agent with ``sudo -n``; ``--ask-become-pass`` asks for a password."""
    python: str | None = Field(default=None, pattern="^[A-Za-z0-9_./+-]+$")
    """The interpreter for the agent, a path or a name; without it the newest ``python3.N`` there."""
    connect_timeout: int = Field(default=20, ge=1, le=600)
    """Seconds to wait for a connection."""
    silence_timeout: int = Field(default=120, ge=2, le=3600)
    """Seconds that a host may be silent before its connection counts as dead; the command ends then, and the agent ends itself,
    which undoes its lock."""
    ports: Ports = ""
    """The TCP ports, such as ``50000-50100``, at which this host may wait for another host's connection, so that data goes from
    host to host directly; without it any that is free."""
    ssh_config: str | None = Field(default=None, pattern="^/[^\0]+$")
    """Another configuration of SSH for this host, an absolute path; without it ``~/.ssh/config``."""


class KeepSection(_Strict):
    """Which points in time `voltool prune` and `voltool backup` keep; the rest is dropped. Nothing is ever dropped where all
    counts are 0, nor what a kept dump rests on, nor the last good full dump. A volume's own section changes the keys that it has;
    the others are as for all."""

    last: int = Field(default=0, ge=0)
    """The newest so many dumps."""
    daily: int = Field(default=0, ge=0)
    """The newest dump of each of the last so many days that have one."""
    weekly: int = Field(default=0, ge=0)
    """The same of ISO weeks."""
    monthly: int = Field(default=0, ge=0)
    """The same of months."""
    yearly: int = Field(default=0, ge=0)
    """The same of years."""
    min_age: Duration = 86_400
    """Nothing younger is dropped."""
    grace: Duration = 7 * 86_400
    """How long a dropped dump lies in its store's bin, where `voltool undelete` finds it."""


class NotifySection(_Strict):
    """Who is told of each run of `voltool backup`. Programs get a summary on their standard input; a program or a URL that fails
    is a fault of the run and stops nothing."""

    on_failure: Command = []
    """A program and its arguments, run when something went wrong, such as ``["mail", "-s", "backup failed", "root"]``."""
    on_success: Command = []
    """The same for a run without faults."""
    ping_start: HttpUrl | None = None
    """A health check's URL that is called when a run begins."""
    ping_success: HttpUrl | None = None
    """Called after a run without faults."""
    ping_failure: HttpUrl | None = None
    """Called after any other run."""
    timeout: int = Field(default=30, ge=1, le=3600)
    """Seconds that each program or URL may take."""
    metrics: str | None = Field(default=None, pattern="^/[^\0]+$")
    """A file for node_exporter's textfile collector, ``/var/lib/node_exporter/voltool.prom``; replaced atomically. That of
    replicas lies beside it, ``voltool-replicas.prom``."""
    syslog: bool = False
    """Write a line for each volume, and one for the run, to syslog."""


class VolumeSection(_Strict):
    """What is particular to a volume, by its name. A key that is also a general one wins over it here."""

    schedule: str | None = None
    """This volume's cycle of levels; ``""``: in no schedule."""
    keep: KeepSection | None = None
    """This volume's ``[volumes.NAME.keep]``."""
    synthetic_full: SyntheticFull | None = None
    """As the general key."""
    overdue_after: Duration | None = None
    """As the general key."""
    suspicious_factor: float | None = Field(default=None, gt=1)
    """As the general key."""
    max_lag: Duration | None = None
    """As the general key."""
    excludes: list[Glob] = []
    """Left out of dumps; taken by ``volume add`` when there is no ``--exclude``."""
    unstable_ok: list[Glob] = []
    """Files that may change while they are read, and directories whose names may come and go (``.`` is the root), without making
    the exit code 3."""
    store: StoreUrl | None = None
    """Where this volume's dumps go."""
    codec: Codec | None = None
    """Compression of this volume's dumps."""
    before_clone: Command = []
    """Run on the volume's host before it is cloned for a dump, a move or `voltool clone`; when it fails nothing is done."""
    after_clone: Command = []
    """Run there when the clone is made; where there are no clones (driver ``directory``), when a dump has read everything."""
    before_lock: Command = []
    """Run on the volume's host before it is locked, such as ``["systemctl", "stop", "app"]``; when it fails nothing is locked."""
    after_unlock: Command = []
    """Run there when a lock has ended or was given up, also by the lock's guardian."""
    before_online: Command = []
    """Run on the new home of a volume that moves, when everything is there and before it is switched over; when it fails the
    volume stays where it is."""
    after_online: Command = []
    """Run there when the volume is in service; when it fails the exit code is 1, and ``move --resume`` runs it again."""
    hook_timeout: int = Field(default=60, ge=1, le=86_400)
    """Seconds that each of these programs may take."""

    @property
    def hooks(self) -> Hooks:
        """The programs to run around jobs."""
        return Hooks(
            before_clone=tuple(self.before_clone),
            after_clone=tuple(self.after_clone),
            before_lock=tuple(self.before_lock),
            after_unlock=tuple(self.after_unlock),
            before_online=tuple(self.before_online),
            after_online=tuple(self.after_online),
            timeout=self.hook_timeout,
        )


class Settings(_Strict):
    """The whole configuration; every key is optional."""

    #: Where dumps go: an absolute path or ``file:///path`` on the machine that voltool runs on, or
    #: ``sftp://[user@]host[:port]/path`` (HOST may be a name of ~/.ssh/config); none: ``store`` in the state directory.
    store: StoreUrl | None = None
    """Where dumps go; ``--store`` wins. Without it: ``store`` in the state directory."""
    min_free: float = Field(default=5.0, ge=0, le=90)
    """Percent of the store's file system that stay free; a dump that would not fit stops cleanly."""
    codec: Codec = "lz4"
    """Compression of dumps."""
    bandwidth: Bandwidth = 0
    """Bytes a second for dump, restore and move; 0: no limit."""
    nice: int = Field(default=0, ge=0, le=19)
    """The nice value of the agent while it dumps."""
    idle_io: bool = False
    """The agent reads only when the disk is idle (ionice class 3)."""
    workers: int = Field(default=0, ge=0, le=64)
    """Worker processes of the agent; 0: as many as are useful."""
    index: bool = True
    """Whether `voltool find`'s index of names is filled after each dump. It takes seconds a million names in a full dump, little
    otherwise; without it `find` reads what it lacks when it is called."""
    # Not checked here: a volume whose schedule is malformed must not keep the others from being dumped.
    schedule: str = ""
    """The cycle of levels of `voltool backup`, one character a day: digits (``-``: no dump that day), or ``weekly`` (0325476),
    ``monthly`` (Coda's 28 days, ``0325476132547613254761325476``), ``hanoi`` (32 days); empty: volumes are in no schedule."""
    stagger: bool = True
    """Whether volumes with equal cycles begin them on different days, so that not all full dumps are made in one night. false:
    all begin together, cycles of whole weeks on a Monday."""
    timezone: str | None = None
    """The zone whose days count for schedules and retention, such as ``Europe/Berlin``; without it this machine's."""
    parallel: int = Field(default=2, ge=1, le=64)
    """How many volumes `voltool backup` dumps at once."""
    parallel_per_host: int = Field(default=1, ge=1, le=64)
    """How many of them on one host."""
    stall_timeout: Duration = 1800
    """A dump that makes no progress for so long is ended."""
    retries: int = Field(default=2, ge=0, le=20)
    """How often what failed is tried again at the end of a run."""
    retry_wait: Duration = 60
    """How long to wait before the first retry; each further wait is twice as long."""
    keep: KeepSection = KeepSection()
    """The general ``[keep]``."""
    synthetic_full: SyntheticFull = "never"
    """Make a new full dump out of a volume's chain so often, so that incrementals can go on for ever."""
    overdue_after: Duration | None = None
    """A volume is overdue when its newest good dump is older; without it: a day and a half after the schedule wanted one."""
    suspicious_factor: float = Field(default=10.0, gt=1)
    """A dump is suspicious that changes or loses so many times what the volume's dumps of its level usually do; then nothing of
    the volume is pruned until `voltool dumps --accept`."""
    path: Literal["auto", "direct", "relay"] = "auto"
    """How data goes from host to host in moves, copies and replicas: ``direct``, over a connection of their own (TLS), or
    ``relay``, through this machine; ``auto``: directly where that can be. ``--path`` wins."""
    max_lag: Duration | None = None
    """A replica is stale when the state it serves is older; without it none ever is."""
    replica_base_age: Duration = 7 * 86_400
    """How long a volume's home keeps a clone for a replica that is not synced meanwhile; after that the next sync compares
    manifests. 0: for ever."""
    fetch_timeout: int = Field(default=30, ge=1, le=3600)
    """Seconds that reading from a lazy replica may wait for hosts that do not answer, before it is an I/O error."""
    notify: NotifySection = NotifySection()
    """Who is told: ``[notify]``."""
    hosts: dict[str, HostSection] = {}
    """How to reach hosts: tables ``[hosts.NAME]``."""
    volumes: dict[str, VolumeSection] = {}
    """What is particular to volumes: tables ``[volumes.NAME]``."""

    def host(self, name: str) -> HostSection:
        """The section of host ``name``, or the defaults."""
        return self.hosts.get(name) or HostSection()

    def volume(self, name: str) -> VolumeSection:
        """The section of volume ``name``, or the defaults."""
        return self.volumes.get(name) or VolumeSection()

    def keep_of(self, name: str) -> KeepSection:
        """What is kept of volume ``name``: the keys of its own section, the others as for all."""
        own = self.volume(name).keep
        if own is None:
            return self.keep
        return self.keep.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})
