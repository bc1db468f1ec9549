"""docs/backup-guide.md, run: on a backup machine that has voltool, and two servers that have nothing of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guide.page import Step, sections
from tests.guide.play import Play, Stage
from tests.hosts import VOLTOOL, Site
from tests.machines import Machine

ONE = "Backing up a server"
SIXTY = "Sixty servers in pull mode"
PAGE = Path(__file__).parent.parent.parent / "docs" / "backup-guide.md"


@dataclass
class Vault(Stage):
    """The configuration is the backup machine's own."""

    @property
    def config(self) -> Path:
        return self.machines["vault"].path("/etc/voltool/config.toml")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("guide")
    with (
        Machine("vault", directory, "ext4") as vault,
        Machine("hostA", directory, "xfs") as one,
        Machine("web02", directory, "ext4") as two,
        Site(directory / "site") as site,
    ):
        for name, machine in (("hostA", one), ("web01", one), ("web02", two)):
            enter = f'ForceCommand exec {shlex.join(machine.entrance)} sh -c "$SSH_ORIGINAL_COMMAND"'
            site.add_host(name, options=[enter])
            machine.must("mkdir -p /srv/data && echo data > /srv/data/file")
        one.must("mkdir -p /srv/home/letters && echo 'To whom it may concern' > /srv/home/letters/will.txt")
        vault.must("mkdir -p /etc/voltool /var/lib/node_exporter /etc/cron.d && touch /etc/voltool/config.toml")
        vault.write("/etc/ssh/ssh_config", "".join(host.sshd.client_section() for host in site.hosts.values()))
        vault.write("/usr/local/bin/voltool", f'#!/bin/sh\nexec {shlex.quote(str(VOLTOOL))} "$@"\n', 0o755)
        path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        site.environment = {"PATH": path, "LC_ALL": "C.UTF-8", "COLUMNS": "120", "HOME": "/srv"}
        yield Vault(site, {"vault": vault, "hostA": one}, page="docs/backup-guide.md")


def steps() -> dict[str, list[Step]]:
    """The page; two servers stand for the sixty."""
    return sections(PAGE.read_text(encoding="utf-8").replace("seq -w 1 60", "seq -f %02g 1 2"))


def test_nothing_on_the_page_is_left_out() -> None:
    assert [heading for heading, found in steps().items() if found] == [ONE, SIXTY]


def test_the_page(stage: Stage) -> None:
    """One section after the other."""
    vault = stage.machines["vault"]
    Play(stage, steps()[ONE]).rest()
    assert vault.must("cat /etc/cron.d/voltool").count("voltool --quiet backup") == 1
    assert "voltool_last_success" in vault.must("cat /var/lib/node_exporter/voltool.prom")
    assert "</html>" in vault.must("cat /srv/report.html")
    play = Play(stage, steps()[SIXTY])
    play.through("voltool status")
    stage.site.hosts["web02"].sshd.stop()
    play.rest()
    assert json.loads(vault.must("tail -n 1 /srv/status.json"))["command"] == "status"
