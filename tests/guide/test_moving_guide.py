"""docs/moving-guide.md, run: every command and every piece of configuration in it, on two hosts, with real servers beside."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guide.page import Step, sections
from tests.guide.play import Play, Stage, stage
from tests.machines import Machine
from tests.writer import wait_until
from voltool.volumes.lock.hold import in_container

DATABASE = "A PostgreSQL data directory"
EXPORT = "A directory that is exported by NFS"
CONTAINER = "A Docker volume"
MAIL = "A mail spool"
BACK = "Going back after a day"
PAGE = Path(__file__).parent.parent.parent / "docs" / "moving-guide.md"
#: The page names Debian 12's; here it may be another one.
_PAGES_POSTGRES = "/usr/lib/postgresql/15/bin"
_POSTGRES = str(next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), _PAGES_POSTGRES))
_PROGRAMS = (f"{_POSTGRES}/pg_ctl", "automount", "crun", "procmail")
_EX_TEMPFAIL = 75


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Stage]:
    if in_container():
        pytest.skip("needs the machine's first pid namespace: nothing is locked in a container")
    missing = [
        program for program in _PROGRAMS if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") is None
    ]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (tools/apt-packages.txt)")
    with stage(tmp_path) as made:
        yield made


def steps() -> dict[str, list[Step]]:
    """The page, by its headings."""
    return sections(PAGE.read_text(encoding="utf-8").replace(_PAGES_POSTGRES, _POSTGRES))


def play(ground: Stage, *headings: str) -> Play:
    found = steps()
    return Play(ground, [step for heading in headings for step in found[heading]])


def test_nothing_on_the_page_is_left_out() -> None:
    """Each section that has something to run is run by one of the tests below."""
    assert [heading for heading, found in steps().items() if found] == [DATABASE, EXPORT, CONTAINER, MAIL, BACK]


class Background:
    """A thread that calls ``act`` with 1, 2, 3, … until it is stopped, and keeps the numbers for which it was true."""

    def __init__(self, act: Callable[[int], bool]) -> None:
        self._act = act
        self._end = threading.Event()
        self.done: list[int] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count(1):
            if self._end.is_set():
                return
            if self._act(number):
                self.done.append(number)
            self._end.wait(0.1)

    def wait_for_more(self, count: int = 3) -> None:
        """Until so many more have succeeded."""
        before = len(self.done)
        wait_until(lambda: len(self.done) >= before + count)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()


# ------------------------------------------------------------------------------------------------------ PostgreSQL


def make_cluster(here: Machine, there: Machine) -> None:
    for machine in (here, there):
        machine.must(
            "mkdir -p /run/postgresql /var/log/postgresql && chown postgres: /run/postgresql /var/log/postgresql"
        )
    as_postgres = "runuser -u postgres --"
    here.must("mkdir /srv/pg && chown postgres: /srv/pg")
    here.must(f"{as_postgres} {_POSTGRES}/initdb -D /srv/pg -A trust --no-sync --locale=C.UTF-8")
    settings = "listen_addresses = ''\\nunix_socket_directories = '/run/postgresql'\\n"
    here.must(f'printf "{settings}" >> /srv/pg/postgresql.conf')
    here.must(f"{as_postgres} {_POSTGRES}/pg_ctl start -D /srv/pg -l /var/log/postgresql/pg.log")
    here.must(f"{as_postgres} psql -c 'CREATE TABLE ledger (entry integer PRIMARY KEY)'")


def test_postgresql(ground: Stage) -> None:
    """A client inserts all the time, through two moves, as the page has it connect; every commit it was told of is there."""
    here, there = ground.machines["hostA"], ground.machines["hostB"]
    make_cluster(here, there)
    hosts = f"{here.path('/run/postgresql')},{there.path('/run/postgresql')}"

    def sql(text: str) -> subprocess.CompletedProcess[str]:
        where = f"host={hosts} user=postgres target_session_attrs=read-write"
        return subprocess.run(["psql", where, "-Atc", text], capture_output=True, text=True, check=False)

    def insert(number: int) -> bool:
        return sql(f"INSERT INTO ledger VALUES ({number})").returncode == 0  # noqa: S608 - our own number

    with Background(insert) as client:
        client.wait_for_more()
        section = play(ground, DATABASE)
        section.through("echo $?")
        client.wait_for_more()
        for move in ("voltool move --resume pg --yes", "voltool move pg hostA --yes"):
            section.through(move)
            client.wait_for_more()
        section.rest()
    entries = {int(line) for line in sql("SELECT entry FROM ledger").stdout.split()}
    assert set(client.done) - entries == set()
    here.must(f"runuser -u postgres -- {_POSTGRES}/pg_ctl status -D /srv/pg")


# ------------------------------------------------------------------------------------------------------ NFS, autofs


@contextlib.contextmanager
def autofs(ground: Stage) -> Iterator[None]:
    """automount on both machines, where init would start it."""
    with contextlib.ExitStack() as stack:
        for machine in ground.machines.values():
            daemon = ["automount", "--foreground", "--dont-check-daemon"]
            stack.enter_context(machine.running(*daemon, environment=ground.site.environment))
            wait_until(lambda machine=machine: " /home " in machine.must("cat /proc/self/mountinfo"))  # type: ignore[misc]
        yield


def test_nfs_export(ground: Stage) -> None:
    """autofs is real; the NFS server is not (this kernel may have none): of `exportfs` it is seen that and when it runs."""
    here = ground.machines["hostA"]
    for machine in ground.machines.values():
        exports = '#!/bin/sh\necho "$@" >> /run/exports\n'
        machine.write("/usr/local/sbin/exportfs", exports, 0o755)
        machine.must("mkdir -p /srv/homes /etc/auto.master.d")
    here.write("/srv/homes/berta/notes", "written at the old home\n")
    section = play(ground, EXPORT)
    section.through("echo '/home /etc/auto.voltool --timeout=60' > /etc/auto.master.d/voltool.autofs")
    section.through("echo '/home /etc/auto.voltool --timeout=60' > /etc/auto.master.d/voltool.autofs")
    with autofs(ground):
        section.rest()
    given = "-o rw,no_subtree_check *:/srv/homes/berta\n"
    assert here.path("/run/exports").read_text() == "-u *:/srv/homes/berta\n"
    assert ground.machines["hostB"].path("/run/exports").read_text() == given


# --------------------------------------------------------------------------------------------------------- Docker


@contextlib.contextmanager
def docker(ground: Stage) -> Iterator[None]:
    """Both machines have one; a container that still runs at the end is stopped, or its cgroup would stay."""
    with contextlib.ExitStack() as stack:
        for machine in ground.machines.values():
            machine.write("/usr/local/bin/docker", (Path(__file__).parent / "docker").read_text(), 0o755)
            stack.callback(machine.run, "docker stop app")
        yield


def written(machine: Machine) -> list[str]:
    """What the container here knows to have written, told outside of its volume."""
    output = machine.path("/run/stand-in-docker/app/output")
    return output.read_text().splitlines() if output.exists() else []


def test_docker_volume(ground: Stage) -> None:
    """A container writes all the time; every line that it knows to be written is there after the move, where it goes on."""
    here, there = ground.machines["hostA"], ground.machines["hostB"]
    with docker(ground):
        here.must("docker volume create appdata && docker create --name app -v appdata:/data example/app")
        here.must("docker start app")
        wait_until(lambda: len(written(here)) > 5)
        section = play(ground, CONTAINER)
        section.through("echo $?")
        before = len(written(here))
        wait_until(lambda: len(written(here)) > before)
        section.rest()
        wait_until(lambda: len(written(there)) > 5)
        there.must("docker stop app")
        log = there.path("/var/lib/docker/volumes/appdata/_data/log").read_text().splitlines()
        assert log == [f"line {number + 1}" for number in range(len(log))]
        assert set(written(here) + written(there)) - set(log) == set()


# ----------------------------------------------------------------------------------------------------------- mail


class MailServer:
    """What a mail server does with a delivery that is deferred: it keeps the message and tries again, where mail goes now."""

    def __init__(self, home: Machine) -> None:
        self.home = home
        self.deferred: list[int] = []

    def deliver(self, number: int) -> bool:
        """Try until it is taken, at most for the time that the test has; anything but "try again" is a bounce."""
        message = f"Subject: message {number}\n\n{number}\n"
        for _attempt in range(2000):
            output, status = self.home.run("procmail -t -d anna", stdin=message)
            if status == 0:
                return True
            assert status == _EX_TEMPFAIL, output
            self.deferred.append(number)
            time.sleep(0.1)
        return False


def test_mail_spool_and_going_back(ground: Stage) -> None:
    """Mail comes in all the time; what is deferred is tried again, and every message that was taken is there once."""
    here, there = ground.machines["hostA"], ground.machines["hostB"]
    for machine in (here, there):
        with machine.path("/etc/passwd").open("a") as accounts:
            accounts.write("anna:x:4711:4711::/srv/mail/anna:/bin/sh\n")
    here.must("mkdir -p /srv/mail/anna/{cur,new,tmp} && chown -R 4711:4711 /srv/mail/anna")
    here.must("for n in {1..100}; do head -c 20000 /dev/urandom | base64 > /srv/mail/anna/cur/old.$n; done")
    section = play(ground, MAIL, BACK)
    section.through("voltool volume add mail hostA:/srv/mail")
    server = MailServer(here)
    with Background(server.deliver) as incoming:
        incoming.wait_for_more()
        section.through("echo $?")
        assert server.deferred, "the lock stands"
        for _times in range(2):
            section.through("echo $?")
        assert server.home.must("ls -A /srv/mail") == ""
        server.home = there
        incoming.wait_for_more()
        sent = json.loads(section.through("voltool move mail hostA --yes --json | tail -n 1"))["bytes"]
        server.home = here
        incoming.wait_for_more()
        section.rest()
    assert sent < 500_000, "of 2.7 MB"
    texts = here.must("cd /srv/mail/anna/new && grep -h '^Subject: message' *").splitlines()
    assert sorted(texts) == sorted(f"Subject: message {number}" for number in incoming.done)
