"""docs/disaster-guide.md, run: on a machine that has the store and python3, while one server lives on and another is gone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guide.page import Step, sections
from tests.guide.play import Play, Stage
from tests.hosts import VOLTOOL, Site
from tests.machines import Machine

BARE = "With nothing but python3"
INSTALLED = "With voltool, newly installed"
REMOTE = "The store lies on another machine"
PAGE = Path(__file__).parent.parent.parent / "docs" / "disaster-guide.md"
CONFIG = """\
store = "/srv/dumps"

[volumes.web]
excludes = ["*.tmp"]
"""
_SFTP_SERVER = "/usr/lib/openssh/sftp-server"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The day before: `vault` (a site that is thrown away) has dumped web1 and mail1 into what becomes rescue's /srv/dumps."""
    directory = tmp_path_factory.mktemp("disaster")
    with (
        Machine("web1", directory, "ext4") as web,
        Machine("rescue", directory, "ext4") as rescue,
        Site(directory / "vault") as vault,
    ):
        for name in ("web1", "mail1"):  # the same machine will do for both
            vault.add_host(name, options=[_entering(web, 'sh -c "$SSH_ORIGINAL_COMMAND"')])
        vault.add_host("offsite", options=[_entering(rescue, _SFTP_SERVER)])
        _make_dumps(vault, web, rescue)
        vault.hosts["mail1"].sshd.stop()
        rescue.write("/etc/ssh/ssh_config", "".join(host.sshd.client_section() for host in vault.hosts.values()))
        # Nothing of the vault is left: neither its state nor its HOME.
        bare = Site(directory / "nothing")
        path = "/usr/local/bin:/usr/bin:/bin"
        bare.environment = {"PATH": path, "LC_ALL": "C.UTF-8", "COLUMNS": "120", "HOME": "/srv"}
        yield Stage(bare, {"rescue": rescue, "web1": web}, page="docs/disaster-guide.md")


def _entering(machine: Machine, command: str) -> str:
    return f"ForceCommand exec {shlex.join(machine.entrance)} {command}"


def _make_dumps(vault: Site, web: Machine, rescue: Machine) -> None:
    config = vault.directory / "config.toml"
    config.write_text(CONFIG)
    vault.environment["VOLTOOL_CONFIG"] = str(config)
    store = str(rescue.path("/srv/dumps"))
    web.must("mkdir /srv/web && echo 'the old page' > /srv/web/index.html && chown www-data: /srv/web/index.html")
    web.must("mkdir /srv/mail && echo 'a letter' > /srv/mail/inbox")
    vault.voltool("volume", "add", "web", "web1:/srv/web", "--exclude", "*.tmp")
    vault.voltool("volume", "add", "mail", "mail1:/srv/mail")
    vault.voltool("dump", "--store", store, "web", "mail")
    web.must("echo 'the new page' > /srv/web/index.html")
    vault.voltool("dump", "--store", store, "--level", "1", "web")


def steps() -> dict[str, list[Step]]:
    return sections(PAGE.read_text(encoding="utf-8"))


def play(stage: Stage, heading: str) -> Play:
    return Play(stage, steps()[heading])


def test_nothing_on_the_page_is_left_out() -> None:
    assert [heading for heading, found in steps().items() if found] == [BARE, INSTALLED, REMOTE]


def test_the_page(stage: Stage) -> None:
    """One section after the other, as somebody would who has read all of it."""
    rescue = stage.machines["rescue"]
    assert rescue.run("command -v voltool")[1] != 0
    play(stage, BARE).rest()
    assert rescue.must("stat -c %U /srv/restored/web/index.html") == "www-data\n"
    rescue.write("/usr/local/bin/voltool", f'#!/bin/sh\nexec {shlex.quote(str(VOLTOOL))} "$@"\n', 0o755)
    play(stage, INSTALLED).rest()
    play(stage, REMOTE).rest()
