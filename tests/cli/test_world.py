"""The composition root: what the configuration says arrives where it is used."""

from __future__ import annotations

import os
from pathlib import Path

from voltool.cli.invocation import Invocation
from voltool.cli.output import Output
from voltool.cli.world import build_world
from voltool.events import Silent
from voltool.machine import this_machine
from voltool.remote.connect import HostSettings, RemoteHosts
from voltool.stores.opening import StoreOpener


def test_the_settings_of_a_host_reach_its_connection(own_environment: Path) -> None:
    config = own_environment / "config.toml"
    config.write_text('[hosts.hostA]\nssh_config = "/etc/voltool/ssh_config"\nconnect_timeout = 7\n', encoding="utf-8")
    environment = {**os.environ, "VOLTOOL_CONFIG": str(config)}
    with Invocation(Output(), environment, build_world) as invocation:
        hosts = invocation.world.hosts.apart(Silent())
        assert isinstance(hosts, RemoteHosts)
        assert hosts.settings("hostA") == HostSettings(ssh_config="/etc/voltool/ssh_config", connect_timeout=7)
        assert hosts.settings("hostB") == HostSettings()
        assert not invocation.world.machine.is_other_than(this_machine())


def test_the_settings_of_a_host_reach_its_store(own_environment: Path) -> None:
    config = own_environment / "config.toml"
    config.write_text(
        '[hosts.backup]\nconnect_timeout = 7\n\n[hosts."me@other:2222"]\nsilence_timeout = 9\n', encoding="utf-8"
    )
    environment = {**os.environ, "VOLTOOL_CONFIG": str(config)}
    with Invocation(Output(), environment, build_world) as invocation:
        stores = invocation.world.stores
        assert isinstance(stores, StoreOpener)
        found = {host: stores._access(host) for host in ("backup", "me@backup:22", "me@other:2222", "other")}
    assert [access.connect_timeout for access in found.values()] == [7, 7, 20, 20]
    assert [access.silence_timeout for access in found.values()] == [120, 120, 9, 120]
    assert len({id(access.secrets) for access in found.values()}) == 1
