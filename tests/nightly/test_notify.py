"""Somebody is told of a run, by real programs, a real HTTP server, a real socket; and nothing of that can end a run."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.catalog.samples import SECOND, make_dump, make_volume
from voltool.catalog.sqlite import SqliteCatalog
from voltool.config.settings import NotifySection, Settings
from voltool.nightly.notify import Notifier
from voltool.policy.runs import RunReport, VolumeRun

NOW = 1_790_000_000 * SECOND
DAY = 86_400 * SECOND


def turn(volume: str, **values: object) -> VolumeRun:
    base = VolumeRun("run1", volume, make_volume(volume).uuid, "hostA", 1, NOW, NOW + 5 * SECOND, 0, made_level=1)
    return dataclasses.replace(base, **{"stored_bytes": 2048, **values})  # type: ignore[arg-type]


GOOD = RunReport(
    "run1", NOW, NOW + 60 * SECOND, 0, (turn("mail"), turn("www", made_level=0, exit_code=3, warnings=("x",)))
)
BAD = RunReport(
    "run1",
    NOW,
    NOW + 60 * SECOND,
    1,
    (turn("mail"), turn("db", exit_code=6, made_level=None, stored_bytes=0, error="no route\nto \x1b[31mhost")),
    unscheduled=("old",),
    faults=("voltool.toml, line 3: no such key",),
    alarms=("www: dump 12ab is suspicious",),
)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqliteCatalog]:
    made = SqliteCatalog(str(tmp_path / "catalog.sqlite"))
    yield made
    made.close()


def notifier(catalog: SqliteCatalog, **notify: object) -> Notifier:
    settings = Settings(schedule="0325476", timezone="UTC", notify=NotifySection(**notify))  # type: ignore[arg-type]
    return Notifier(settings, catalog, os.environ, wait=0.01, syslog="/nowhere", hostname="back\nup")


@dataclass
class Checks:
    """A health check: what it was sent, and what it answers (0: nothing at all)."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def checks() -> Iterator[Checks]:
    made = Checks()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append((self.path, body.decode()))
            code = made.answers.pop(0) if made.answers else 200
            if code == 0:
                over.wait(20)
                return
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_about: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def a_program(tmp_path: Path, body: str) -> tuple[list[str], Path]:
    """A program that is called with a file to write into."""
    program, out = tmp_path / "told", tmp_path / "out"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return [str(program), "an argument with spaces", str(out)], out


def test_a_program_gets_a_mail(catalog: SqliteCatalog, tmp_path: Path) -> None:
    program, out = a_program(
        tmp_path, '(echo "$1|$VOLTOOL_EXIT_CODE|$VOLTOOL_FAILED|$VOLTOOL_RUN_ID|$VOLTOOL_SUBJECT"; cat) > "$2"'
    )
    told = notifier(catalog, on_failure=program, on_success=["/bin/false"])
    assert told.ended(BAD) == ()
    about, mail = out.read_text().split("\n", 1)
    subject = "voltool backup on back\\x0aup: FAILED: 1 failed, 1 suspicious, 1 ok"
    assert about == f"an argument with spaces|1|db|run1|{subject}"
    assert mail.startswith(f"Subject: {subject}\n\nRun run1: ")
    for line in (
        "  db: FAILED (exit code 6): no route\\x0ato \\x1b[31mhost",
        "  www: dump 12ab is suspicious",
        "  voltool.toml, line 3: no such key",
        "  mail: ok: level 1, 2.0 KiB in 5 s",
        "  old",
    ):
        assert line in mail.splitlines()
    assert "\x1b" not in mail


def test_success_is_told_to_another(catalog: SqliteCatalog, tmp_path: Path) -> None:
    program, out = a_program(tmp_path, 'cat > "$2"')
    told = notifier(catalog, on_failure=["/bin/false"], on_success=program)
    assert told.ended(GOOD) == ()
    mail = out.read_text()
    assert "ok: 1 partial, 1 ok" in mail.splitlines()[0]
    assert "  www: partial: level 0, 2.0 KiB in 5 s (level 1 was due)" in mail.splitlines()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo first >&2; echo no such user >&2; exit 3", "exit code 3: no such user"),
        ('echo $$ > "$2"; exec sleep 60', "longer than 1 s"),
        (None, "No such file"),
    ],
)
def test_a_program_that_fails_is_a_fault(catalog: SqliteCatalog, tmp_path: Path, body: str | None, why: str) -> None:
    program = ["/no/such/program"] if body is None else a_program(tmp_path, body)[0]
    (fault,) = notifier(catalog, on_failure=program, timeout=1).ended(BAD)
    assert program[0] in fault
    assert why in fault
    if (out := tmp_path / "out").exists():
        assert not Path(f"/proc/{int(out.read_text())}").exists()


def test_a_child_that_a_program_leaves_behind_is_not_waited_for(catalog: SqliteCatalog, tmp_path: Path) -> None:
    program, out = a_program(tmp_path, 'sleep 30 & echo $! > "$2"')
    assert notifier(catalog, on_failure=program, timeout=10).ended(BAD) == ()
    os.kill(int(out.read_text()), 9)


def test_health_checks(catalog: SqliteCatalog, checks: Checks) -> None:
    urls = {f"ping_{what}": f"{checks.url}/{what}" for what in ("start", "success", "failure")}
    told = notifier(catalog, **urls)
    told.started("run1")
    assert told.ended(GOOD) == ()
    assert told.ended(BAD) == ()
    assert [path for path, _body in checks.got] == ["/start", "/success", "/failure"]
    assert "no such key" in checks.got[2][1]


def test_a_health_check_is_tried_again_where_that_may_help(catalog: SqliteCatalog, checks: Checks) -> None:
    told = notifier(catalog, ping_success=f"{checks.url}/x")
    checks.answers[:] = [503, 500]
    assert told.ended(GOOD) == ()
    assert len(checks.got) == 3
    checks.answers[:] = [404]
    (fault,) = told.ended(GOOD)
    assert "404" in fault
    assert len(checks.got) == 4


def test_one_that_hangs_or_is_not_there_is_a_fault(catalog: SqliteCatalog, checks: Checks) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        told = notifier(
            catalog, ping_start=f"http://127.0.0.1:{closed.getsockname()[1]}/", ping_success=checks.url, timeout=1
        )
        checks.answers[:] = [0, 0, 0]
        told.started("run1")
        first, second = told.ended(GOOD)
    assert "refused" in first
    assert "no answer in time" in second
    assert checks.got


def test_metrics_of_all_volumes(catalog: SqliteCatalog, tmp_path: Path) -> None:
    """Also of those that were not in this run."""
    mail, quiet, never = make_volume("mail"), make_volume("quiet"), make_volume("never")
    for volume in (mail, quiet, never):
        catalog.put_volume(volume)
    full = make_dump(1, volume=mail, time_ns=NOW - 3 * DAY)
    catalog.add_dump(full)
    catalog.add_dump(make_dump(2, volume=mail, level=1, base=full, time_ns=NOW))
    catalog.add_dump(make_dump(3, volume=quiet, time_ns=NOW - 9 * DAY))
    catalog.add_run(turn("mail", exit_code=3))
    catalog.put_suspicious(mail.uuid, {f"{2:032x}": "why", "gone": "x"})
    path = tmp_path / "voltool.prom"
    path.write_text("old")
    assert notifier(catalog, metrics=str(path)).ended(BAD) == ()
    text = path.read_text()
    values = {
        (sample.name, *sorted(sample.labels.values(), key=str.isdigit)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["voltool_last_success_timestamp_seconds", "mail", "0"] == (NOW - 3 * DAY) / 1e9
    assert values["voltool_last_success_timestamp_seconds", "mail", "1"] == NOW / 1e9
    assert values["voltool_last_success_timestamp_seconds", "quiet", "0"] == (NOW - 9 * DAY) / 1e9
    assert values["voltool_last_dump_duration_seconds", "mail", "1"] == 1.5
    assert values["voltool_last_dump_stored_bytes", "mail", "1"] == 700
    assert [values["voltool_overdue", name] for name in ("mail", "quiet", "never")] == [0, 1, 1]
    assert values["voltool_suspicious_dumps", "mail"] == 1
    assert values["voltool_last_exit_code", "mail"] == 3
    assert values["voltool_run_exit_code",] == 1
    assert values["voltool_run_duration_seconds",] == 60
    assert values["voltool_run_volumes", "failed"] == 1
    assert "lag" not in text  # there are no replicas
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()
    assert list(tmp_path.glob("*.new")) == []


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value


def test_metrics_that_cannot_be_written(catalog: SqliteCatalog, tmp_path: Path) -> None:
    (fault,) = notifier(catalog, metrics=str(tmp_path / "no/voltool.prom")).ended(GOOD)
    assert "voltool.prom" in fault


def test_syslog(catalog: SqliteCatalog, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "log"))
        log.settimeout(5)
        told = notifier(catalog, syslog=True)
        told.syslog = str(tmp_path / "log")
        assert told.ended(BAD) == ()
        lines = [log.recv(4096).rstrip(b"\0").decode() for _ in range(5)]
    daemon = 3 << 3
    mark = f"voltool[{os.getpid()}]: "
    assert lines[0] == f"<{daemon + 6}>{mark}mail: ok: level 1, 2.0 KiB in 5 s"
    assert lines[1].startswith(f"<{daemon + 3}>{mark}db: FAILED (exit code 6): no route\\x0ato")
    assert lines[2].startswith(f"<{daemon + 2}>{mark}suspicious: ")
    assert lines[4].startswith(f"<{daemon + 3}>{mark}voltool backup on ")


def test_without_a_syslog_the_others_are_told(catalog: SqliteCatalog, tmp_path: Path) -> None:
    program, out = a_program(tmp_path, 'cat > "$2"')
    (fault,) = notifier(catalog, syslog=True, on_success=program).ended(GOOD)
    assert fault.startswith("syslog could not be told: ")
    assert out.exists()
