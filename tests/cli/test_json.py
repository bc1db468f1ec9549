"""The machine interface: every line of every command is what docs/json.md says, field by field."""

from __future__ import annotations

import base64
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.catalog.samples import make_dump, make_volume
from tests.cli.fakes import Console, ListedEntry, Outcome, Result, make_record
from voltool.browse.diff_records import Outcome as Difference
from voltool.browse.history import Found, Point, Version
from voltool.cli import json_lines
from voltool.dumpfile.format import encode_object
from voltool.errors import IntegrityError, InterruptedByUser, Interruption, UnreachableError
from voltool.events import (
    Locked,
    Notice,
    PhaseEnded,
    PhaseStarted,
    Progressed,
    StepEnded,
    StepStarted,
    Unlocked,
)
from voltool.model import FileProblem, Problem
from voltool.wire.messages import ScanTotals

DOC = Path(__file__).parents[2] / "docs/json.md"
Fields = dict[str, tuple[str, bool]]


def read_schema() -> dict[str, Fields]:
    """The tables of docs/json.md: heading → field → (type, optional)."""
    schema: dict[str, Fields] = {}
    heading = ""
    for line in DOC.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            heading = line[4:].strip("` ")
            schema[heading] = {}
        elif heading and (match := re.match(r"\| `(\w+)` \| ([a-z]+(?:\[\]|\?)?)( \(optional\))? \|", line)):
            schema[heading][match[1]] = (match[2], match[3] is not None)
    return schema


SCHEMA = read_schema()
PLAIN: dict[str, Any] = {"string": str, "integer": int, "boolean": bool, "number": (int, float)}


def check(value: Any, kind: str, where: str) -> None:
    """Fail unless ``value`` is of the documented type ``kind``."""
    if kind.endswith("?"):
        if value is not None:
            check(value, kind[:-1], where)
    elif kind.endswith("[]"):
        assert isinstance(value, list), where
        for item in value:
            check(item, kind[:-2], f"{where}[]")
    elif kind == "name":
        if not isinstance(value, str):
            assert list(value) == ["b64"], where
            with pytest.raises(UnicodeDecodeError):
                base64.b64decode(value["b64"]).decode()
    elif kind == "time":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", value), where
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), where
        assert kind == "boolean" or not isinstance(value, bool), where
    else:
        check_fields(value, SCHEMA[kind], where)


def check_fields(value: dict[str, Any], fields: Fields, where: str) -> None:
    missing = {name for name, (_kind, optional) in fields.items() if not optional} - set(value)
    assert not missing, f"{where} lacks {missing}"
    assert not set(value) - set(fields), f"{where}: docs/json.md does not know {set(value) - set(fields)}"
    for name, item in value.items():
        check(item, fields[name][0], f"{where}.{name}")


def check_lines(result: Result) -> dict[str, Any]:
    """Every line against the page; the result line."""
    assert result.err == ""
    for line in result.lines[:-1]:
        check_fields(line, SCHEMA[line["event"]], line["event"])
    last = result.result
    command = {"dumps": "dump"}.get(last.get("command", ""), last.get("command", ""))
    fields = dict(SCHEMA["result"])
    own = SCHEMA.get(command, {})
    # A command that failed as a whole has said what it could.
    fields |= own if last["ok"] else {name: (kind, True) for name, (kind, _optional) in own.items()}
    check_fields(last, fields, command)
    assert last["ok"] is (last["exit"] in (0, 3))
    assert ("error" in last) is (not last["ok"])
    return last


@pytest.fixture
def filled(voltool: Console) -> Console:
    voltool("volume", "add", "vol1", "hostA:/srv/vol1", "--exclude", "*.tmp")
    (record,) = voltool.hosts.records.values()
    volume = make_volume("vol1", uuid=record.uuid)
    zero = voltool.add_dump(1, volume=volume)
    voltool.add_dump(2, volume=volume, level=1, base=zero)
    return voltool


def dump_job(_world: Any, volume: Any, options: Any) -> Outcome:
    if volume.name == "broken":
        raise IntegrityError("the base is damaged", where="x", why="y", remedy="z")
    if options.dry_run:
        return Outcome(totals=ScanTotals(5, 4, 3000))
    problems = (FileProblem(Problem.UNREADABLE, b"a\xff", "EIO"), FileProblem(Problem.UNSTABLE, b"log", "busy"))
    _world.reporter.report(PhaseStarted("vol1", "dump", 10, 1))
    _world.reporter.report(Progressed("vol1", "dump", 5, 1))
    _world.reporter.report(PhaseEnded("vol1", "dump"))
    return Outcome(dump=make_dump(3, volume=volume, level=options.level, problems=problems), exit_code=3)


def test_dump_is_exactly_as_promised(filled: Console) -> None:
    filled.job("dump", dump_volume=dump_job)
    last = check_lines(filled("dump", "--json", "--level", "1", "vol1"))
    assert (last["command"], last["ok"], last["exit"]) == ("dump", True, 3)
    (dump,) = last["dumps"]
    assert list(dump) == [
        "id", "volume", "level", "base", "time", "consistency", "entries", "data_bytes", "stored_bytes", "seconds",
        "unreadable", "unstable", "store", "file",
    ]  # fmt: skip
    assert dump["unreadable"] == [{"b64": base64.b64encode(b"a\xff").decode()}]
    assert dump["unstable"] == ["log"]


def test_one_that_fails_does_not_hide_the_others(filled: Console) -> None:
    filled.job("dump", dump_volume=dump_job)
    filled("volume", "add", "broken", "hostA:/srv/broken")
    last = check_lines(filled("dump", "missing", "broken", "vol1", "--json"))
    assert last["exit"] == 5
    assert last["error"]["kind"] == "integrity"
    assert [failure["subject"] for failure in last["errors"]] == ["missing", "broken"]
    assert [dump["volume"] for dump in last["dumps"]] == ["vol1"]


def test_a_dry_run(filled: Console) -> None:
    filled.job("dump", dump_volume=dump_job)
    last = check_lines(filled("dump", "vol1", "--dry-run", "--json"))
    assert last["dumps"] == []
    assert last["dry_run"][0]["bytes"] == 3000


def test_an_interrupted_one_says_what_it_has_done(filled: Console) -> None:
    def job(world: Any, volume: Any, options: Any) -> Outcome:
        if volume.name == "second":
            raise Interruption(InterruptedByUser("interrupted"))
        return dump_job(world, volume, options)

    filled.job("dump", dump_volume=job)
    filled("volume", "add", "second", "hostA:/srv/second")
    last = check_lines(filled("dump", "vol1", "second", "--json"))
    assert (last["exit"], last["error"]["kind"], len(last["dumps"])) == (130, "interrupted", 1)


def test_dumps_are_the_same_objects(filled: Console) -> None:
    last = check_lines(filled("dumps", "--json"))
    assert [dump["level"] for dump in last["dumps"]] == [0, 1]
    assert last["dumps"][1]["base"] == last["dumps"][0]["id"]
    assert check_lines(filled("dumps", "vol1", "--json"))["dumps"] == last["dumps"]


def test_restore(filled: Console) -> None:
    problems = (FileProblem(Problem.UNREADABLE, b"\xfe", "unknown content"),)
    outcome = Outcome(dump_ids=("a", "b"), target="hostC:/x", entries=7, bytes=8, seconds=0.5, problems=problems)
    filled.job("restore", restore=lambda *_arguments, **_options: outcome)
    result = filled("restore", "vol1", "hostC:/x", "--json")
    last = check_lines(result)
    assert {key: last[key] for key in ("dumps", "target", "entries", "bytes", "seconds")} == {
        "dumps": ["a", "b"], "target": "hostC:/x", "entries": 7, "bytes": 8, "seconds": 0.5,
    }  # fmt: skip
    assert [line["event"] for line in result.lines] == ["chosen", "notice", "result"]


def test_verify(filled: Console) -> None:
    filled.job("verify", verify=lambda _world, dump: Outcome(dump_ids=(dump.header.dump_id,), entries=1, bytes=2))
    assert len(check_lines(filled("verify", "--json"))["verified"]) == 1
    assert len(check_lines(filled("verify", "vol1", "--json"))["verified"]) == 1
    last = check_lines(filled("verify", "vol1", "nothing", "--json"))
    assert last["exit"] == 1
    assert last["errors"][0]["subject"] == "nothing"


def test_prune(voltool: Console) -> None:
    config = voltool.state.parent / "keep.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("[keep]\nlast = 1\nmin_age = 0\n[volumes.vol1.keep]\ngrace = '2d'\n")
    zero = make_dump(1, store=voltool.store.url)
    one = make_dump(2, level=1, base=zero, store=voltool.store.url)
    named = [
        replace(dump, file=f"vol1/20260101T000000Z-L{dump.header.level}-{dump.header.dump_id}.voltool")
        for dump in (zero, one, make_dump(3, store=voltool.store.url))
    ]
    with voltool.catalog() as catalog:
        for dump in named:
            voltool.store.create(dump.file).publish()
            catalog.add_dump(dump)
    last = check_lines(voltool("prune", "--dry-run", "--json", "--config", str(config)))
    assert [decision["keep"] for decision in last["decisions"]] == [False, False, True]
    assert last["dropped"] == []
    with voltool.store.pin(named[1].file, "a restore"):
        last = check_lines(voltool("prune", "vol1", "--json", "--config", str(config)))
    assert [spared["dump"] for spared in last["spared"]] == [one.header.dump_id, zero.header.dump_id]
    last = check_lines(voltool("prune", "--json", "--config", str(config)))
    assert last["dropped"] == [one.header.dump_id, zero.header.dump_id]
    assert len(last["waiting"]) == 2
    last = check_lines(voltool("merge", f"{3:032x}", "--replace", "--json"))
    assert (last["exit"], last["error"]["kind"]) == (5, "integrity"), (
        "the full dump, an empty file here, is verified first"
    )
    assert last["made"] is False


def test_dumps_that_were_dropped(filled: Console) -> None:
    """Names as the real jobs give them, which say what lies in a bin."""
    file = f"vol1/20260101T000000Z-L0-{7:032x}.voltool"
    filled.store.create(file).publish()
    filled.store.discard(file)
    (deleted,) = check_lines(filled("dumps", "--deleted", "--json"))["deleted"]
    assert (deleted["dump"], deleted["level"], deleted["time"]) == (f"{7:032x}", 0, "2026-01-01T00:00:00.000000000Z")
    assert check_lines(filled("dumps", "--deleted", "other", "--json"))["deleted"] == []
    assert len(check_lines(filled("prune", "--json"))["waiting"]) == 1
    assert check_lines(filled("prune", "--purge-now", "--json"))["error"]["kind"] == "usage"
    last = check_lines(filled("undelete", "ff", "--json"))
    assert (last["exit"], last["error"]["kind"]) == (1, "not_found")
    assert len(check_lines(filled("prune", "--purge-now", "--yes", "--json"))["purged"]) == 1
    last = check_lines(filled("dumps", "--accept", f"{2:032x}", "--json"))
    assert last["accepted"] == [f"{2:032x}"]


def test_ls_and_cat(filled: Console) -> None:
    entries = [
        ListedEntry(b"\xff\n", make_record(stat.S_IFREG | 0o640, 5), b""),
        ListedEntry(b"link", make_record(stat.S_IFLNK | 0o777), b"to\xff"),
    ]
    filled.job("browse", list_directory=lambda *_: iter(entries), read_file=lambda *_: iter([b"ab", b"\xff"]))
    result = filled("ls", "vol1", "/", "--json")
    assert check_lines(result)["entries"] == 2
    assert result.lines[2]["target"] == {"b64": "dG//"}
    result = filled("cat", "vol1", "x", "--json")
    assert check_lines(result)["bytes"] == 3
    content = b"".join(base64.b64decode(line["b64"]) for line in result.lines if line["event"] == "data")
    assert content == b"ab\xff"


def test_find_and_diff(filled: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = Point("1" * 32, 10**18), Point("2" * 32, 10**18 + 5)
    versions = (
        Version(stat.S_IFDIR | 0o755, 0, None, first, first, 1),
        Version(stat.S_IFREG | 0o4640, 5, -(10**18), last, last, 1),
    )
    found = [Found("vol1", b"a/\xff", versions, None), Found("vol1", b"b", versions, last)]
    monkeypatch.setattr("voltool.browse.find.find", lambda *_: iter(found))
    result = filled("find", "a", "--json")
    assert check_lines(result)["paths"] == 2
    assert result.lines[0]["versions"][1]["mode"] == "4640"
    result = filled("find", "a", "--limit", "1", "--json")
    assert (check_lines(result)["paths"], result.result["more"]) == (1, True)
    record, other = (encode_object(make_record(mode, 5)) for mode in (stat.S_IFREG | 0o640, stat.S_IFREG | 0o600))
    told = [
        Difference(b"a\xff", None, b"", record),
        Difference(b"b", None, record, b""),
        Difference(b"c", b"d", record, other),
        Difference(b".", None, record, other),
    ]
    monkeypatch.setattr("voltool.browse.diff.diff", lambda *_: iter(told))
    result = filled("diff", "vol1", "--json")
    last_line = check_lines(result)
    assert [last_line[key] for key in ("added", "removed", "renamed", "changed", "new_bytes")] == [1, 1, 1, 1, 5]
    assert [line["changes"] for line in result.lines if line["event"] == "difference"] == [[], [], ["mode"], ["mode"]]


def test_volumes_and_hosts(filled: Console) -> None:
    assert (
        check_lines(filled("volume", "add", "vol1", "hostA:/srv/vol1", "--exclude", "*.tmp", "--json"))["created"]
        is False
    )
    assert check_lines(filled("volume", "list", "--json"))["volumes"][0]["excludes"] == ["*.tmp"]
    assert check_lines(filled("volume", "show", "vol1", "--json"))["record"]["states"] == ["f" * 64]
    assert check_lines(filled("clone", "vol1", "--json"))["clone"]["for"] == "user"
    assert check_lines(filled("clones", "vol1", "--json"))["clones"][0]["id"] == "12ab"
    assert check_lines(filled("clones", "vol1", "--drop", "12", "--json"))["dropped"]["id"] == "12ab"
    assert check_lines(filled("where", "vol1", "--json"))["path"] == "/srv/vol1"
    assert check_lines(filled("lock", "vol1", "--for", "1h", "--json"))["leaseless"] == 0
    assert check_lines(filled("unlock", "vol1", "--json"))["unlocked"] is True
    assert check_lines(filled("volume", "set", "vol1", "--path", "/srv/new", "--json"))["volume"]["path"] == "/srv/new"
    assert check_lines(filled("host", "check", "hostA", "--json"))["facts"][1]["try"] == "apt install liblz4-1"
    assert check_lines(filled("host", "clean", "hostA", "--dry-run", "--json"))["paths"] == ["/var/lib/voltool"]
    last = check_lines(filled("volume", "remove", "vol1", "--json"))
    assert (last["reached"], last["left"]) == (True, [{"b64": base64.b64encode(b"/srv/.voltool/\xff").decode()}])


def test_an_unreachable_host(filled: Console) -> None:
    filled.hosts.dead.add("hostA")
    last = check_lines(filled("volume", "show", "vol1", "--json"))
    assert (last["exit"], last["error"]["kind"], last["error"]["try"]) == (6, "unreachable", "turn it on")
    assert last["volume"]["name"] == "vol1"
    last = check_lines(filled("volume", "remove", "vol1", "--json"))
    assert (last["ok"], last["reached"], last["left"]) == (True, False, [])


def test_backup_and_its_schedule(filled: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "c.toml"
    config.write_text('schedule = "weekly"\n[volumes.malformed]\nschedule = "x"\n[volumes.idle]\nschedule = ""\n')
    monkeypatch.setenv("VOLTOOL_CONFIG", str(config))
    filled.add_volume(make_volume("new"))
    filled.add_volume(make_volume("idle"))
    last = check_lines(filled("backup", "--dry-run", "--json"))
    assert [(due["volume"], due["level"]) for due in last["planned"] if due["volume"] == "new"] == [("new", 0)]
    assert (last["unscheduled"], last["exit"], last["errors"][0]["subject"]) == (["idle"], 1, "malformed")
    last = check_lines(filled("schedule", "show", "--days", "7", "--json"))
    assert len(last["planned"]) == 14
    assert last["exit"] == 1

    # A host that is dead: the turn is an event, and in the result.
    def job(_world: Any, _volume: Any, _options: Any) -> Outcome:
        raise UnreachableError("the host cannot be reached")

    filled.job("dump", dump_volume=job)
    config.write_text('schedule = "weekly"\nretries = 0\n')
    result = filled("backup", "new", "--json")
    last = check_lines(result)
    assert (last["exit"], last["turns"][0]["exit"], last["turns"][0]["volume"]) == (6, 6, "new")
    assert [line["volume"] for line in result.lines if line["event"] == "turn"] == ["new"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json"], ["--json", "nonsense"], ["dump", "--json"], ["dump", "x", "--level", "a", "--json"],
        ["volume", "add", "1x", "local:/x", "--json"], ["volume", "add", "x", "/x", "--json"],
        ["restore", "x", "local:relative", "--json"], ["--json", "--config", "/nowhere", "volume", "list"],
        ["volume", "add", "x", "local:/x", "--driver", "ntfs", "--json"], ["dump", "vol1", "--bandwidth", "y", "--json"],
        ["host", "check", "-oProxyCommand=x", "--json"], ["dump", "vol1", "--store", "ftp://x/", "--json"],
    ],
)  # fmt: skip
def test_wrong_calls(filled: Console, arguments: list[str]) -> None:
    last = check_lines(filled(*arguments))
    assert (last["exit"], last["error"]["kind"]) == (2, "usage")


def test_every_event_is_documented() -> None:
    for event in (
        PhaseStarted("v", "scan"),
        Progressed("v", "scan"),
        PhaseEnded("v", "scan"),
        StepStarted("v", "copy", ("lock", "settle")),
        StepEnded("v", "lock", 0.5, ok=False),
        StepEnded("v", "copy", 0.5, bytes=1, entries=2, predicted_downtime=0.3, why_stop="short enough"),
        Locked("v", 60),
        Unlocked("v", 0.5, switched=True),
        Notice("info", "x"),
    ):
        line = json_lines.event_object(event)
        check_fields(line, SCHEMA[line["event"]], line["event"])
