"""The composition root: what the configuration says arrives where it is used."""

from __future__ import annotations

import os
from pathlib import Path

from voltool.cli.invocation import Invocation
from voltool.cli.output import Output
from voltool.cli.world import build_world
from voltool.machine import this_machine
from voltool.remote.connect import HostSettings, RemoteHosts


def test_the_settings_of_a_host_reach_its_connection(own_environment: Path) -> None:
    config = own_environment / "config.toml"
    config.write_text('[hosts.hostA]\nssh_config = "/etc/voltool/ssh_config"\nconnect_timeout = 7\n', encoding="utf-8")
    environment = {**os.environ, "VOLTOOL_CONFIG": str(config)}
    with Invocation(Output(), environment, build_world) as invocation:
        hosts = invocation.world.hosts
        assert isinstance(hosts, RemoteHosts)
        assert hosts.settings("hostA") == HostSettings(ssh_config="/etc/voltool/ssh_config", connect_timeout=7)
        assert hosts.settings("hostB") == HostSettings()
        assert not invocation.world.machine.is_other_than(this_machine())
