"""What a configuration may say, as strict pydantic models; docs/config.md describes it, a test compares the two.

Imports pydantic, so it is imported late. Knows nothing of files.
"""

from __future__ import annotations

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


def _store_url(url: str) -> str:
    if not url.startswith(("/", "file:///")):
        raise ValueError("a store is an absolute path or a file:///path URL")
    return url


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
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class HostSection(_Strict):
    """``[hosts.NAME]``: how to reach a host. Address, port and user belong into ~/.ssh/config."""

    transport: Literal["paramiko", "openssh"] = "paramiko"
    become: bool = False
    python: str | None = Field(default=None, pattern="^[A-Za-z0-9_./+-]+$")
    connect_timeout: int = Field(default=20, ge=1, le=600)
    silence_timeout: int = Field(default=120, ge=2, le=3600)
    ssh_config: str | None = Field(default=None, pattern="^/[^\0]+$")


class KeepSection(_Strict):
    """``[keep]`` or ``[volumes.NAME.keep]``: which points in time stay. Nothing is ever pruned where all counts are 0.

    ``last``: the newest so many dumps; the others: the newest dump of each of the last so many days, ISO weeks, months, years
    that have one. ``min_age``: nothing younger is dropped. ``grace``: how long a dropped dump can still be undeleted.
    """

    last: int = Field(default=0, ge=0)
    daily: int = Field(default=0, ge=0)
    weekly: int = Field(default=0, ge=0)
    monthly: int = Field(default=0, ge=0)
    yearly: int = Field(default=0, ge=0)
    min_age: Duration = 86_400
    grace: Duration = 7 * 86_400


class NotifySection(_Strict):
    """``[notify]``: who is told of each run of `voltool backup`. The programs get a summary on their standard input."""

    on_failure: Command = []
    on_success: Command = []
    ping_start: HttpUrl | None = None
    ping_success: HttpUrl | None = None
    ping_failure: HttpUrl | None = None
    timeout: int = Field(default=30, ge=1, le=3600)
    metrics: str | None = Field(default=None, pattern="^/[^\0]+$")
    syslog: bool = False


class VolumeSection(_Strict):
    """``[volumes.NAME]``: what is particular to a volume."""

    schedule: str | None = None
    keep: KeepSection | None = None
    synthetic_full: SyntheticFull | None = None
    overdue_after: Duration | None = None
    suspicious_factor: float | None = Field(default=None, gt=1)

    excludes: list[Glob] = []
    unstable_ok: list[Glob] = []
    store: StoreUrl | None = None
    codec: Codec | None = None
    before_clone: list[str] = []
    after_clone: list[str] = []
    before_lock: list[str] = []
    after_unlock: list[str] = []
    before_online: list[str] = []
    after_online: list[str] = []
    hook_timeout: int = Field(default=60, ge=1, le=86_400)

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

    store: StoreUrl | None = None
    min_free: float = Field(default=5.0, ge=0, le=90)
    codec: Codec = "lz4"
    bandwidth: Bandwidth = 0
    nice: int = Field(default=0, ge=0, le=19)
    idle_io: bool = False
    workers: int = Field(default=0, ge=0, le=64)
    #: Whether `voltool find`'s index of names is filled after each dump. It takes seconds a million names in a full dump, little
    #: otherwise; without it `find` reads what it lacks when it is called.
    index: bool = True
    #: The cycle of levels, one a day: digits, or ``weekly``, ``monthly``, ``hanoi``; empty: in no schedule. Not checked here: a
    #: volume whose schedule is malformed must not keep the others from being dumped.
    schedule: str = ""
    #: An IANA name; none: this machine's zone.
    timezone: str | None = None
    parallel: int = Field(default=2, ge=1, le=64)
    parallel_per_host: int = Field(default=1, ge=1, le=64)
    stall_timeout: Duration = 1800
    retries: int = Field(default=2, ge=0, le=20)
    retry_wait: Duration = 60
    keep: KeepSection = KeepSection()
    synthetic_full: SyntheticFull = "never"
    #: A volume is overdue when its newest good dump is older; none: a day and a half after the schedule wanted one.
    overdue_after: Duration | None = None
    #: A dump is suspicious that changes or loses so many times what the volume's dumps of its level usually do.
    suspicious_factor: float = Field(default=10.0, gt=1)
    notify: NotifySection = NotifySection()
    hosts: dict[str, HostSection] = {}
    volumes: dict[str, VolumeSection] = {}

    def host(self, name: str) -> HostSection:
        """The section of host ``name``, or the defaults."""
        return self.hosts.get(name) or HostSection()

    def volume(self, name: str) -> VolumeSection:
        """The section of volume ``name``, or the defaults."""
        return self.volumes.get(name) or VolumeSection()
