"""The command line as people and cron meet it: what goes where, exit codes, what is said before and after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.catalog.samples import SECOND, make_dump
from tests.cli.fakes import Console, Outcome
from voltool.cli.app import app
from voltool.cli.arguments import GLOBAL_FLAGS, GLOBAL_VALUES, VALUE_OPTIONS, globals_first
from voltool.errors import BusyError, IntegrityError, UnreachableError, VoltoolError
from voltool.machine import Machine
from voltool.model import FileProblem, Problem
from voltool.wire.messages import AdoptVolume

VOLTOOL = Path(sys.executable).parent / "voltool"


@pytest.fixture
def filled(voltool: Console) -> Console:
    for name in ("vol1", "vol2"):
        voltool("volume", "add", name, f"hostA:/srv/{name}")
    return voltool


def outcome(code: int = 0, **values: Any) -> Any:
    return lambda _world, volume, options: Outcome(
        dump=make_dump(1, volume=volume, level=options.level, **values), exit_code=code
    )


def test_one_summary_line_a_volume(filled: Console) -> None:
    filled.job("dump", dump_volume=outcome())
    done = filled("dump", "vol1", "vol2", "vol1")
    assert done.code == 0
    lines = done.out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["vol1", "vol2"]
    assert all("level 0" in line and "1000 B of data" in line and "700 B stored" in line for line in lines)


def test_the_first_dump_says_where_its_store_is(filled: Console) -> None:
    filled.job("dump", dump_volume=outcome())
    done = filled("dump", "vol1")
    assert f"the store is file://{filled.state}/store" in done.err
    assert "--store" in done.err
    filled.add_dump(1)
    assert "the store is" not in filled("dump", "vol1").err
    assert len(filled.learned) == 2


def test_problems_are_named_and_escaped(filled: Console) -> None:
    problems = (FileProblem(Problem.UNREADABLE, b"a\x1b[2J\xff\\", "EIO"),)
    filled.job("dump", dump_volume=outcome(3, problems=problems))
    done = filled("dump", "vol1")
    assert done.code == 3
    assert "vol1: unreadable: a\\x1b[2J\\xff\\\\: EIO" in done.err
    assert "\x1b" not in done.err + done.out


def test_quiet_is_quiet_but_for_errors(filled: Console) -> None:
    filled.job("dump", dump_volume=outcome())
    done = filled("dump", "-q", "vol1")
    assert (done.code, done.out, done.err) == (0, "", "")
    done = filled("dump", "vol1", "nothing", "--quiet")
    assert (done.code, done.out) == (1, "")
    assert "there is no volume 'nothing'" in done.err


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ([BusyError("x"), None], 4),
        ([UnreachableError("x"), BusyError("x")], 6),
        ([UnreachableError("x"), VoltoolError("x")], 1),
        ([VoltoolError("x"), IntegrityError("x")], 5),
    ],
)
def test_the_worst_exit_code_wins(filled: Console, errors: list[VoltoolError | None], code: int) -> None:
    left = list(errors)

    def job(world: Any, volume: Any, options: Any) -> Outcome:
        error = left.pop(0)
        if error is not None:
            raise error
        made: Outcome = outcome()(world, volume, options)
        return made

    filled.job("dump", dump_volume=job)
    assert filled("dump", "vol1", "vol2").code == code
    assert left == []


def test_an_error_says_what_where_why_and_what_to_try(filled: Console) -> None:
    filled.hosts.dead.add("hostA")
    done = filled("volume", "show", "vol1")
    assert done.code == 6
    assert done.err.splitlines() == [
        "voltool: the host cannot be reached", "  where: hostA", "  why:   no route", "  try:   turn it on",
    ]  # fmt: skip


def test_an_unforeseen_error_is_a_message(filled: Console) -> None:
    def job(*_arguments: object) -> None:
        raise ZeroDivisionError("oh")

    filled.job("dump", dump_volume=job)
    done = filled("dump", "vol1")
    assert done.code == 1
    assert "did not foresee" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in filled("dump", "vol1", "--verbose").err


def test_options_come_from_the_line_the_volume_and_the_configuration(filled: Console, tmp_path: Path) -> None:
    seen: list[Any] = []

    def job(world: Any, volume: Any, options: Any) -> Outcome:
        seen.append(options)
        made: Outcome = outcome()(world, volume, options)
        return made

    filled.job("dump", dump_volume=job)
    config = tmp_path / "c.toml"
    config.write_text(
        "store = '/srv/a'\nbandwidth = '1M'\nnice = 3\nmin_free = 7\n"
        "[volumes.vol2]\ncodec = 'none'\nstore = '/srv/b'\nunstable_ok = ['*.log']\n"
    )
    filled("dump", "--config", str(config), "vol1", "vol2", "--nice", "0", "--bandwidth=2K")
    filled("--config", str(config), "dump", "vol2", "--store", "/srv/c", "--codec", "lz4", "--workers", "3")
    assert [(one.store, one.codec, one.bandwidth, one.nice) for one in seen] == [
        ("file:///srv/a", "lz4", 2048, 0),
        ("file:///srv/b", "none", 2048, 0),
        ("file:///srv/c", "lz4", 1 << 20, 3),
    ]
    assert (seen[1].unstable_ok, seen[1].min_free_percent, seen[2].workers) == ((b"*.log",), 7, 3)


def test_adding_again_changes_nothing_and_other_values_are_refused(filled: Console) -> None:
    again = filled("volume", "add", "vol1", "hostA:/srv//vol1/")
    assert (again.code, "already" in again.out) == (0, True)
    other = filled("volume", "add", "vol1", "hostB:/srv/vol1")
    assert (other.code, "voltool volume set vol1" in other.err) == (2, True)
    assert filled("volume", "add", "vol3", "hostA:/srv/vol1").code == 2
    assert filled("volume", "add", "vol3", "hostA:/srv/vol1/inside").code == 2
    assert filled("volume", "add", "vol3", "hostA:/srv").code == 2
    assert filled("volume", "add", "vol3", "hostB:/srv/vol1/inside").code == 0
    assert filled("volume", "add", "vol10", "hostA:/srv/vol10").code == 0


def test_a_lost_catalog_is_rebuilt_from_the_host(filled: Console) -> None:
    with filled.catalog() as catalog:
        before = catalog.volume("vol1")
        catalog.remove_volume(before.uuid)
    assert filled("volume", "add", "other", "hostA:/srv/vol1").code == 2
    assert filled("volume", "add", "vol1", "hostA:/srv/vol1").code == 0
    with filled.catalog() as catalog:
        assert catalog.volume("vol1") == before


def test_a_volume_on_this_machine_must_not_hold_store_or_state(voltool: Console, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert voltool("volume", "add", "vol1", f"local:{tmp_path}/link").code == 0
    request = voltool.hosts.sent[-1]
    assert isinstance(request, AdoptVolume)
    assert request.path == os.fsencode(tmp_path)
    assert set(request.forbidden) == {os.fsencode(voltool.state), os.fsencode(voltool.state / "store")}
    voltool("volume", "add", "vol2", "hostA:/srv/vol2")
    assert voltool.hosts.sent[-1].forbidden == ()


def test_set_keeps_the_identity_and_goes_on_counting(filled: Console) -> None:
    with filled.catalog() as catalog:
        before = catalog.volume("vol1")
    filled.add_dump(41, volume=before)
    done = filled("volume", "set", "vol1", "--host", "hostB", "--name", "renamed", "--exclude", "*.o")
    assert done.code == 0
    request = filled.hosts.sent[-1]
    assert (request.uuid, request.replace, request.sequence) == (before.uuid, True, 41)
    with filled.catalog() as catalog:
        after = catalog.volume("renamed")
    assert (after.uuid, after.host, after.path, after.excludes) == (before.uuid, "hostB", before.path, (b"*.o",))
    assert filled("volume", "set", "renamed", "--name", "vol2").code == 2
    filled("volume", "set", "renamed", "--no-excludes")
    assert filled.hosts.sent[-1].excludes == ()


def test_remove_names_what_it_leaves(filled: Console) -> None:
    done = filled("volume", "remove", "vol1")
    assert done.code == 0
    assert "/srv/.voltool/\\xff" in done.out
    assert filled("volume", "show", "vol1").code == 1
    filled.hosts.dead.add("hostA")
    done = filled("volume", "remove", "vol2")
    assert done.code == 0
    assert "voltool host clean hostA" in done.err
    assert "no volumes yet" in filled("volume", "list").err


def test_what_was_chosen_is_said_before_anything_is_done(filled: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    with filled.catalog() as catalog:
        volume = catalog.volume("vol1")
    now = time.time_ns()
    old = filled.add_dump(1, volume=volume, time_ns=now - 3 * 86_400 * SECOND)
    new = filled.add_dump(2, volume=volume, time_ns=now - 7200 * SECOND)
    chosen: list[str] = []

    def job(_world: Any, dump: Any, *_arguments: Any, **_options: Any) -> Outcome:
        chosen.append(dump.header.dump_id)
        return Outcome(dump_ids=(dump.header.dump_id,))

    filled.job("restore", restore=job)
    done = filled("restore", "vol1", "hostC:/x")
    assert new.header.dump_id in done.err
    assert "2 h 0 min ago" in done.err
    filled("restore", "vol1", "hostC:/x", "--at", "3 hours ago")
    filled("restore", old.header.dump_id[:31] + "1", "hostC:/x")
    assert chosen == [new.header.dump_id, old.header.dump_id, old.header.dump_id]
    assert filled("restore", "vol1", "hostC:/x", "--at", "2199-01-01").code == 2
    assert filled("restore", "vol1", "hostC:/x", "--at", "banana").code == 2
    assert filled("restore", "vol1", "hostC:/x", "--at", "1999-01-01").code == 1
    assert len(chosen) == 3


def test_dumps_shows_chains(filled: Console) -> None:
    with filled.catalog() as catalog:
        volume = catalog.volume("vol1")
    zero = filled.add_dump(1, volume=volume, dump_id="a" * 32)
    one = filled.add_dump(2, volume=volume, level=1, base=zero, dump_id="b" * 32)
    filled.add_dump(3, volume=volume, level=2, base=one, dump_id="c" * 32)
    lines = filled("dumps", "vol1").out.splitlines()
    assert [line.split()[0] for line in lines] == ["DUMP", "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"]
    column = lines[0].index("LEVEL")
    assert [line[column : column + 5] for line in lines[1:]] == ["0    ", "  1  ", "    2"]
    assert filled("dumps", "vol2").out == ""
    assert filled("dumps", "nothing").code == 1


def test_a_catalog_that_was_copied_to_another_machine(voltool: Console, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    assert voltool("volume", "add", "vol", f"local:{tree}").code == 0
    assert voltool("volume", "show", "vol").code == 0
    voltool.machine = Machine("there", "2" * 32)
    voltool.hosts.sent.clear()
    for command in (("volume", "show"), ("dump",), ("volume", "set"), ("where",)):
        done = voltool(*command, "vol")
        assert done.code == 1
        assert "added on here, and this is there" in done.err
        assert "voltool volume set vol --host HOST" in done.err
    assert voltool.hosts.sent == []
    voltool.hosts.records.clear()  # the agent is that of this machine now
    assert voltool("volume", "add", "other", f"local:{tree}").code == 0
    assert voltool("volume", "remove", "other").code == 0
    done = voltool("volume", "set", "vol", "--host", "local")  # the disk was moved
    assert done.code == 0
    assert voltool("volume", "show", "vol").code == 0
    voltool.machine = Machine("third", "3" * 32)
    voltool.hosts.sent.clear()
    done = voltool("volume", "remove", "vol")
    assert done.code == 0
    assert "local to there" in done.err
    assert voltool.hosts.sent == []


def test_a_dump_that_is_gone_from_its_store_is_not_offered(filled: Console) -> None:
    with filled.catalog() as catalog:
        volume = catalog.volume("vol1")
    dump = filled.add_dump(1, volume=volume)
    filled.store.remove(dump.file)
    done = filled("dumps")
    assert done.out == ""
    assert "is it mounted?" in done.err
    with filled.catalog() as catalog:
        assert len(catalog.dumps()) == 1


def test_a_deleted_dump_is_told_once_and_forgotten(filled: Console) -> None:
    """Where the store has other dumps it is there, and the store is the truth."""
    with filled.catalog() as catalog:
        volume = catalog.volume("vol1")
    gone = filled.add_dump(1, volume=volume)
    left = filled.add_dump(2, volume=volume)
    filled.store.remove(gone.file)
    first = filled("dumps")
    assert gone.header.dump_id[:12] in first.err
    assert left.header.dump_id[:12] in first.out
    again = filled("dumps")
    assert (again.out, again.err) == (first.out, "")
    with filled.catalog() as catalog:
        assert [dump.header.dump_id for dump in catalog.dumps()] == [left.header.dump_id]


def test_cat_gives_bytes_and_nothing_else(filled: Console) -> None:
    with filled.catalog() as catalog:
        filled.add_dump(1, volume=catalog.volume("vol1"))
    asked: list[bytes] = []

    def read_file(_world: Any, _dump: Any, path: bytes) -> list[bytes]:
        asked.append(path)
        return [b"a", b"\xff\n"]

    filled.job("browse", read_file=read_file)
    assert filled("cat", "vol1", "/x/./y").out.encode("utf-8", "surrogateescape") == b"a\xff\n"
    assert asked == [b"x/y"]


# ------------------------------------------------------------------------------------------------- global options


def test_global_options_go_before_or_after() -> None:
    assert globals_first(["dump", "v", "--json", "--config", "f", "-q"]) == [
        "--json",
        "--config",
        "f",
        "-q",
        "dump",
        "v",
    ]
    assert globals_first(["dump", "--config=f", "v"]) == ["--config=f", "dump", "v"]
    assert globals_first(["volume", "add", "v", "p", "--exclude", "--json"]) == [
        "volume", "add", "v", "p", "--exclude", "--json",
    ]  # fmt: skip
    assert globals_first(["ls", "v", "--", "--json"]) == ["ls", "v", "--", "--json"]


def test_the_arity_of_every_option_is_known() -> None:
    import typer.main

    taking: set[str] = set()
    flags: set[str] = set()

    def walk(command: Any) -> None:
        for parameter in command.params:
            if parameter.param_type_name == "option":
                (flags if parameter.is_flag else taking).update(parameter.opts)
        for child in getattr(command, "commands", {}).values():
            walk(child)

    walk(typer.main.get_command(app))
    assert taking == VALUE_OPTIONS | GLOBAL_VALUES
    assert flags >= GLOBAL_FLAGS


# ---------------------------------------------------------------------------------------------- the real program


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(VOLTOOL), *arguments], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["dump", "--help"], 0),
        ([], 2),
        (["volume"], 2),
        (["bogus"], 2),
        (["dump", "--bogus", "x"], 2),
    ],
)
def test_the_programs_exit_codes(arguments: list[str], code: int) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("\nnice = 'x'\n")
    done = run("volume", "list", env={**os.environ, "VOLTOOL_CONFIG": str(config)})
    assert done.returncode == 2
    assert f"{config}, line 2" in done.stderr


def test_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{VOLTOOL} volume list --json | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


SLOW = """
import signal, sys, types, time
for number in (signal.SIGINT, signal.SIGHUP):  # whoever runs the tests may ignore them, as nohup does
    signal.signal(number, signal.SIG_DFL)
from tests.cli.fakes import DumpOptions
import voltool.backup
def dump_volume(world, volume, options):
    try:
        print("working", file=sys.stderr, flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.3)
        print("cleaned up", file=sys.stderr, flush=True)
fake = types.ModuleType("voltool.backup.dump")
fake.dump_volume, fake.DumpOptions = dump_volume, DumpOptions
sys.modules["voltool.backup.dump"] = fake
from voltool.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up_and_is_130(filled: Console, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, "dump", "vol1", "vol2", "--json", "--config", os.devnull],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "working\n"
        process.send_signal(number)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.count("cleaned up") == 1
    assert '"exit":130' in out.splitlines()[-1]
