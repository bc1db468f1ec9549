"""`voltool schedule install`: the texts for cron and systemd, and a real cron that runs what was installed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hosts import VOLTOOL, Site
from tests.remote.processes import wait_until
from voltool.errors import HostError, RefusedError, UsageError
from voltool.nightly.cron import BEGIN, END, SystemCron, UserCron, cron_line, with_lines, without_lines
from voltool.nightly.installing import Job, make_job, own_program
from voltool.nightly.timer import SystemdTimer, service_unit, timer_unit

JOB = Job(
    ("/opt/a b/bin/voltool", "--quiet", "--config", "/etc/50%/$x'y.toml", "backup"),
    (("VOLTOOL_STATE_DIR", "/s t"),),
    3,
    7,
)
PLAIN = Job(("/usr/bin/voltool", "--quiet", "backup"), (), 3, 30)


def test_the_job(tmp_path: Path) -> None:
    job = make_job(
        "3:07", "/usr/bin/voltool", "c.toml", {"VOLTOOL_STATE_DIR": "/s", "HOME": "/root", "VOLTOOL_CONFIG": ""}
    )
    assert job.command == ("/usr/bin/voltool", "--quiet", "--config", os.path.abspath("c.toml"), "backup")
    assert (job.variables, job.hour, job.minute) == ((("VOLTOOL_STATE_DIR", "/s"),), 3, 7)
    for at in ("24:00", "3", "03:60", "noon", "", "3:5"):
        with pytest.raises(UsageError, match="time of day"):
            make_job(at, "/usr/bin/voltool", None, {})
    with pytest.raises(UsageError, match="control"):
        make_job("1:00", "/usr/bin/voltool", "/etc/\n* * * * * root evil", {})
    assert own_program(str(VOLTOOL)) == str(VOLTOOL)


def test_a_line_of_cron_means_what_it_should() -> None:
    """Cron takes a % for the end of the command unless it is escaped, and gives the rest to sh."""
    line = cron_line(JOB, user="root")
    assert line.startswith("7 3 * * * root VOLTOOL_STATE_DIR=")
    command = line.removeprefix("7 3 * * * root ").replace("\\%", "%")
    assert shlex.split(command) == ["VOLTOOL_STATE_DIR=/s t", *JOB.command]
    assert "%" not in line.replace("\\%", "")


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")), max_size=8
    )
)
def test_other_lines_of_a_crontab_are_never_touched(lines: list[str]) -> None:
    before = "\n".join(lines)
    ends = before if before.endswith("\n") or not before else before + "\n"
    installed = with_lines(before, cron_line(PLAIN))
    assert installed == f"{ends}{BEGIN}\n30 3 * * * /usr/bin/voltool --quiet backup\n{END}\n"
    moved = f"{installed}# later\n"
    changed = with_lines(moved, cron_line(JOB))
    assert changed == f"{ends}{BEGIN}\n{cron_line(JOB)}\n{END}\n# later\n"
    assert with_lines(changed, cron_line(JOB)) == changed
    assert without_lines(changed) == f"{ends}# later\n"
    assert without_lines(ends) == ends


def test_a_crontab_whose_mark_has_lost_its_end_is_left_alone() -> None:
    with pytest.raises(RefusedError, match="no end"):
        without_lines(f"{BEGIN}\n1 1 * * * x\n2 2 * * * precious\n")


def test_a_users_crontab(tmp_path: Path) -> None:
    """By a crontab(1) that keeps a file, and complains as the real one does."""
    program, kept = tmp_path / "crontab", tmp_path / "kept"
    program.write_text(
        f'#!/bin/sh\nif [ "$1" = -l ]; then cat {kept} 2>/dev/null || {{ echo "no crontab for me" >&2; exit 1; }}\n'
        f"else cat > {kept}; fi\n"
    )
    program.chmod(0o755)
    place = UserCron(str(program))
    assert (place.installed(), place.uninstall()) == (None, False)
    place.install(PLAIN)
    place.install(JOB)
    installed = place.installed()
    assert installed is not None
    assert installed.text == cron_line(JOB)
    assert kept.read_text().count("backup") == 1
    assert place.uninstall()
    assert kept.read_text() == ""
    assert UserCron(str(tmp_path / "none")).installed() is None
    with pytest.raises(HostError, match="no cron"):
        UserCron(str(tmp_path / "none")).install(PLAIN)


def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "voltool").write_text("1 1 * * * root precious\n")
    place = SystemCron(str(tmp_path / "voltool"))
    for act in (place.installed, lambda: place.install(PLAIN), place.uninstall):
        with pytest.raises(RefusedError):
            act()
    assert (tmp_path / "voltool").read_text() == "1 1 * * * root precious\n"
    with pytest.raises(HostError, match="no cron"):
        SystemCron(str(tmp_path / "nowhere/voltool")).install(PLAIN)


@pytest.mark.parametrize("of_user", [False, True])
def test_the_units_of_systemd(tmp_path: Path, *, of_user: bool) -> None:
    """Looked at by systemd itself; what is to be run is an existing program with an awkward name."""
    program = tmp_path / "a b%$c" / "voltool"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    job = Job((str(program), "--quiet", "backup"), (("VOLTOOL_STATE_DIR", "/s t%"),), 3, 7)
    units = tmp_path / "units"
    place = SystemdTimer(str(units), of_user=of_user, running=str(tmp_path / "nowhere"))
    assert (place.installed(), place.uninstall()) == (None, False)
    by_hand = place.install(PLAIN)
    assert place.install(job) == by_hand
    assert any("systemctl" in text and ("--user" in text) is of_user for text in by_hand)
    installed = place.installed()
    assert installed is not None
    assert "OnCalendar=*-*-* 03:07:00" in installed.text
    timer = (units / "voltool-backup.timer").read_text()
    assert timer == timer_unit(job)
    assert "Persistent=true" in timer
    service = (units / "voltool-backup.service").read_text()
    assert service == service_unit(job, of_user=of_user)
    assert ("network-online" in service) is not of_user
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(["--user"] if of_user else []), *map(str, units.iterdir())],
        capture_output=True, text=True, check=False, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    ours = [line for line in checked.stderr.splitlines() if "voltool" in line]
    assert (checked.returncode, ours) == (0, []), checked.stderr
    assert place.uninstall()
    assert list(units.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- a real cron


@pytest.fixture
def own_cron(tmp_path: Path) -> Iterator[Path]:
    """A cron of this test's own, in its mount namespace: with its own /etc/cron.d, crontabs and pid file. Its log."""
    if shutil.which("cron") is None or os.geteuid() != 0:
        pytest.skip("no cron on this machine (package cron), or not root")
    places = {"/etc/cron.d": "cron.d", "/var/spool/cron": "spool", "/run": "run"}
    for place, name in places.items():
        (tmp_path / name).mkdir(mode=0o755)
        subprocess.run(["mount", "--bind", str(tmp_path / name), place], check=True)
    (tmp_path / "spool/crontabs").mkdir()
    (tmp_path / "crontab").touch()
    if os.path.exists("/etc/crontab"):
        subprocess.run(["mount", "--bind", str(tmp_path / "crontab"), "/etc/crontab"], check=True)
    log = tmp_path / "cron.log"
    with log.open("wb") as output:
        cron = subprocess.Popen(["cron", "-f", "-L", "15"], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield log
    finally:
        cron.kill()
        cron.wait()
        for place in (*places, "/etc/crontab"):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)


def test_a_real_cron_runs_what_was_installed(own_cron: Path, tmp_path: Path) -> None:
    """Without any of the environment that it was installed in."""
    with Site(tmp_path / "si te") as site:
        tree = tmp_path / "srv/tree"
        tree.mkdir(parents=True)
        (tree / "file").write_bytes(b"content")
        config = site.directory / "100% own.toml"
        config.write_text('schedule = "weekly"\n')
        site.voltool("volume", "add", "vol", f"local:{tree}")
        now = datetime.now().astimezone()
        at = now + timedelta(seconds=75 if now.second > 45 else 60)
        shown = site.voltool("--config", str(config), "schedule", "install", "--cron", "--at", at.strftime("%H:%M"))
        assert "called by cron (/etc/cron.d/voltool)" in shown.stdout
        before = json.loads(site.voltool("--json", "schedule", "show", "--config", str(config)).stdout.splitlines()[-1])
        assert before["installed"][0]["by"] == "cron"
        store = site.state / "store"
        assert wait_until(lambda: any(store.rglob("*.voltool")), 100), own_cron.read_text()
        assert time.time() >= at.replace(second=0, microsecond=0).timestamp()
        assert site.voltool("schedule", "uninstall").stdout == "taken out: cron\n"
        assert not Path("/etc/cron.d/voltool").exists()
        assert site.voltool("schedule", "uninstall").stdout == "nothing was installed\n"
        # Cron mails what is printed; nothing was.
        assert wait_until(lambda: not processes_of_cron(own_cron))
        planned = json.loads(site.voltool("--json", "--config", str(config), "backup", "--dry-run").stdout)
        assert planned["not_due"] == ["vol"]


def processes_of_cron(log: Path) -> list[int]:
    """Children of children of our cron: jobs that run."""
    from tests.remote.processes import processes_with

    return processes_with("--quiet", str(log.parent))
