"""What the configuration and the command line say of replicas of a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltool.cli.invocation import Invocation
    from voltool.replica.sessions import ReplicaSettings
    from voltool.replica.target import SettingsOf


def settings_of(invocation: Invocation, bandwidth: str | None, workers: int | None, path: str | None) -> SettingsOf:
    """For each volume by its name; ``bandwidth``, ``workers`` and ``path`` as given on the command line."""
    from voltool.config.quantity import parse_bytes
    from voltool.remote.paths import check_mode
    from voltool.replica.sessions import ReplicaSettings

    settings = invocation.settings
    mode = check_mode(path or settings.path)
    rate = settings.bandwidth if bandwidth is None else parse_bytes(bandwidth)

    def settings_for(name: str) -> ReplicaSettings:
        section = settings.volume(name)
        return ReplicaSettings(
            codec=section.codec or settings.codec,
            workers=settings.workers if workers is None else workers,
            bandwidth=rate,
            hooks=section.hooks,
            base_age=settings.replica_base_age,
            fetch_timeout=settings.fetch_timeout,
            path=mode,
            fill_bandwidth=None if bandwidth is None else rate,
        )

    return settings_for
