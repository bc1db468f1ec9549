"""What lies in a store beside the dumps, and how everything comes back from it: also from a damaged or hostile one."""

from __future__ import annotations

import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.catalog.samples import make_volume
from tests.cli.fakes import Console
from tests.cli.test_json import check_lines
from tests.dumpfile.model import State, Thing, header_of, write_dump
from voltool.backup import volume_list
from voltool.backup.marks import accept
from voltool.backup.ports import World
from voltool.backup.rebuild import rebuild
from voltool.backup.safekeeping import CONFIG, READER, README, keep_copies
from voltool.backup.volume_list import ListedVolume
from voltool.catalog.sqlite import SqliteCatalog
from voltool.errors import EXIT_DONE, EXIT_UNREACHABLE
from voltool.events import Notice
from voltool.machine import Machine
from voltool.model import Epoch, KnownVolume, VolumeRecord
from voltool.remote.ship import build_reader
from voltool.stores.contract import ASIDE_MOST
from voltool.stores.naming import format_name
from voltool.stores.opening import StoreOpener

TREE = State({1: Thing(0o040755)}, {})
WEB = make_volume("web", host="web1")
MAIL = make_volume("mail", host="mail1", path=b"/srv/\xff mail", excludes=(b"*.tmp", b"\xfe"))


class Ears:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def report(self, event: Any) -> None:
        assert isinstance(event, Notice)
        self.heard.append(f"{event.severity}: {event.message}")


@pytest.fixture
def world(voltool: Console) -> Any:
    catalog = SqliteCatalog(str(voltool.state / "catalog.sqlite"))
    yield World(voltool.hosts, StoreOpener(0.0), catalog, Ears(), "tester", Machine("here", "1" * 32))
    catalog.close()


def put_dump(voltool: Console, volume: KnownVolume, number: int, epoch: int = 1) -> str:
    """A real dump of ``volume`` in the store; its file."""
    dump_id = f"{number:032x}"
    header = replace(
        header_of(dump_id, 0, None), volume_uuid=volume.uuid, volume_name=volume.name, sequence=number,
        epoch=Epoch(epoch, "token", volume.host), clone_time_ns=number * 10**9,
    )  # fmt: skip
    data, _totals = write_dump(TREE, None, header, random.Random(1))
    file = format_name(volume.name, header.clone_time_ns, 0, dump_id)
    writer = voltool.store.create(file)
    writer.write(data)
    writer.publish()
    return file


def heard(world: World) -> str:
    assert isinstance(world.reporter, Ears)
    return "\n".join(world.reporter.heard)


def kept(voltool: Console) -> volume_list.VolumeList:
    data = voltool.store.get_aside(volume_list.NAME)
    assert data is not None
    return volume_list.decode(data, pytest.fail)


# ------------------------------------------------------------------------------------------------ what is put there


def test_a_store_gets_what_makes_it_enough_by_itself(voltool: Console, world: World) -> None:
    for volume in (WEB, MAIL, make_volume("elsewhere")):
        world.catalog.put_volume(volume)
    put_dump(voltool, WEB, 1)
    put_dump(voltool, MAIL, 2, epoch=3)
    rebuild(world, [voltool.store.url], [])
    keep_copies(world, voltool.store.url, b"min_free = 1.0\n")
    assert voltool.store.get_aside(CONFIG) == b"min_free = 1.0\n"
    assert voltool.store.get_aside(READER) == build_reader()
    assert b"python3 voltool.pyz" in (voltool.store.get_aside(README) or b"")
    assert {(listed.volume, listed.epoch) for listed in kept(voltool).volumes} == {(WEB, 1), (MAIL, 3)}


def test_it_is_written_when_it_has_changed_and_not_else(voltool: Console, world: World) -> None:
    world.catalog.put_volume(WEB)
    put_dump(voltool, WEB, 1)
    rebuild(world, [voltool.store.url], [])
    keep_copies(world, voltool.store.url, b"a")
    root = Path(os.fsdecode(voltool.store.path_on_this_host() or b""))
    before = {path.name: path.stat().st_ino for path in root.iterdir() if path.is_file()}
    keep_copies(world, voltool.store.url, b"a")
    assert {path.name: path.stat().st_ino for path in root.iterdir() if path.is_file()} == before
    keep_copies(world, voltool.store.url, b"b")
    assert voltool.store.get_aside(CONFIG) == b"b"
    keep_copies(world, voltool.store.url, None)
    assert voltool.store.get_aside(CONFIG) == b"b"


def test_what_other_catalogs_said_stays_and_what_was_removed_is_marked(voltool: Console, world: World) -> None:
    foreign = ListedVolume(make_volume("theirs"), 1, by="2" * 32)
    ours = ListedVolume(make_volume("gone"), 1, by=world.catalog.identity())
    voltool.store.put_aside(volume_list.NAME, volume_list.encode([foreign, ours], "0.1"))
    keep_copies(world, voltool.store.url, None)
    assert set(kept(voltool).volumes) == {foreign, replace(ours, removed=True)}
    rebuild(world, [voltool.store.url], [])
    assert [volume.name for volume in world.catalog.volumes()] == ["theirs"]


def test_a_catalog_that_was_lost_takes_nothing_out_of_the_list(voltool: Console, world: World) -> None:
    """Whoever adds one volume again and dumps it, before anything is rebuilt, has removed none of the others."""
    for volume in (WEB, MAIL):
        world.catalog.put_volume(volume)
    put_dump(voltool, WEB, 1)
    put_dump(voltool, MAIL, 2)
    rebuild(world, [voltool.store.url], [])
    keep_copies(world, voltool.store.url, None)
    catalog = SqliteCatalog(str(voltool.state / "anew.sqlite"))
    anew = replace(world, catalog=catalog)
    catalog.put_volume(WEB)
    rebuild(anew, [], [])
    keep_copies(anew, voltool.store.url, None)
    rebuild(anew, [voltool.store.url], [])
    assert set(catalog.volumes()) == {WEB, MAIL}
    catalog.close()


def test_a_newer_voltools_reader_and_list_stay(voltool: Console, world: World) -> None:
    newer = json.dumps({"format": 9, "tool_version": "99.1", "volumes": []}).encode()
    voltool.store.put_aside(volume_list.NAME, newer)
    voltool.store.put_aside(READER, b"newer")
    keep_copies(world, voltool.store.url, None)
    assert voltool.store.get_aside(volume_list.NAME) == newer
    assert voltool.store.get_aside(READER) == b"newer"


def test_a_store_that_takes_nothing_costs_a_warning(voltool: Console, world: World) -> None:
    root = Path(os.fsdecode(voltool.store.path_on_this_host() or b""))
    (root / READER).mkdir(parents=True)
    keep_copies(world, voltool.store.url, None)
    assert "warning: the copies of configuration" in heard(world)


TEXT = st.text(max_size=20)


KEYS = st.sampled_from(["format", "volumes", "uuid", "name", "host", "path", "epoch", "excludes"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


@given(JSON)
def test_any_json_for_a_list_is_passed_over(content: Any) -> None:
    for picture in (content, {"format": 1, "volumes": [content]}):
        assert volume_list.decode(json.dumps(picture).encode(), lambda _why: None).volumes == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("uuid", "../../etc"), ("uuid", "A" * 32), ("name", "a\nb"), ("name", "../x"), ("host", "-oProxyCommand=x"),
        ("host", "a b"), ("path", "srv"), ("path", "/a\0"), ("driver", "x" * 99), ("epoch", -1), ("epoch", True),
        ("removed", 1), ("excludes", [1]), ("hostname", "\x1b[2J"),
    ],
)  # fmt: skip
def test_an_entry_that_no_voltool_writes_is_passed_over_alone(key: str, value: Any) -> None:
    picture = json.loads(volume_list.encode([ListedVolume(WEB), ListedVolume(MAIL)], "1"))
    next(entry for entry in picture["volumes"] if entry["name"] == "web")[key] = value
    said: list[str] = []
    found = volume_list.decode(json.dumps(picture).encode(), said.append)
    assert [listed.volume for listed in found.volumes] == [MAIL]
    assert len(said) == 1
    assert said[0].isprintable()


# ------------------------------------------------------------------------------------------------ what comes back


def test_everything_comes_back_from_a_store(voltool: Console, world: World) -> None:
    files = [put_dump(voltool, WEB, 1), put_dump(voltool, MAIL, 2)]
    voltool.store.put_aside(volume_list.NAME, volume_list.encode([ListedVolume(WEB, 1), ListedVolume(MAIL, 1)], "1"))
    accept(voltool.store, (f"{1:032x}",), 5)
    dropped = put_dump(voltool, WEB, 3)
    voltool.store.discard(dropped)
    put_dump(voltool, make_volume("orphan"), 4)
    voltool.hosts.dead.update({"web1", "mail1"})
    outcome = rebuild(world, [voltool.store.url], [])
    assert set(world.catalog.volumes()) == {WEB, MAIL}
    assert {dump.file for dump in world.catalog.dumps()} >= set(files)
    assert dropped not in {dump.file for dump in world.catalog.dumps()}
    assert world.catalog.accepted() == {f"{1:032x}"}
    assert (outcome.accepted, outcome.nowhere, outcome.failed) == (1, ["orphan"], [])
    assert "web1 was not asked" in heard(world)


def test_the_host_itself_knows_better_than_the_list(voltool: Console, world: World) -> None:
    put_dump(voltool, WEB, 1)
    voltool.store.put_aside(volume_list.NAME, volume_list.encode([ListedVolume(WEB, 1)], "1"))
    voltool.hosts.records[WEB.uuid] = VolumeRecord(WEB.uuid, "web", b"/new/place", "btrfs", Epoch(2, "t", "web1"), 7)
    rebuild(world, [voltool.store.url], [])
    (volume,) = world.catalog.volumes()
    assert (volume.host, volume.path, volume.driver) == ("web1", b"/new/place", "btrfs")
    assert "its epoch is higher" in heard(world)


def test_of_two_hosts_the_higher_epoch_wins_and_a_split_is_named(
    voltool: Console, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = {
        "old": VolumeRecord(WEB.uuid, "web", b"/srv/web", "btrfs", Epoch(1, "a", "old"), 7),
        "new": VolumeRecord(WEB.uuid, "web", b"/srv/web", "btrfs", Epoch(2, "b", "new"), 9),
        "split": VolumeRecord(WEB.uuid, "web", b"/srv/web", "btrfs", Epoch(2, "c", "split"), 9),
    }
    real = voltool.hosts.connect

    def connect(host: str) -> Any:
        voltool.hosts.records = {WEB.uuid: records[host]}
        return real(host)

    monkeypatch.setattr(voltool.hosts, "connect", connect)
    rebuild(world, [], ["old", "new"])
    assert [volume.host for volume in world.catalog.volumes()] == ["new"]
    assert "web is at new:/srv/web (epoch 2, the host new) and at old:/srv/web (epoch 1, the host old)" in heard(world)
    rebuild(world, [], ["new", "split"])
    assert "a split" in heard(world)


def test_two_volumes_of_one_name(voltool: Console, world: World) -> None:
    other = make_volume("web", uuid="f" * 32, host="web9")
    voltool.store.put_aside(volume_list.NAME, volume_list.encode([ListedVolume(WEB, 1), ListedVolume(other, 1)], "1"))
    put_dump(voltool, other, 1)
    voltool.hosts.dead.update({"web1", "web9"})
    rebuild(world, [voltool.store.url], [])
    assert world.catalog.volumes() == [other]  # the one that has a dump
    assert f"the volume web (web1:/srv/web, {WEB.uuid}) is passed over" in heard(world)


def test_a_hostile_store(voltool: Console, world: World) -> None:
    good = put_dump(voltool, WEB, 1)
    root = Path(os.fsdecode(voltool.store.path_on_this_host() or b""))
    name = format_name("web", 5, 0, "e" * 32).removeprefix("web/")
    (root / "web" / name).symlink_to("/etc/passwd")
    (root / "web" / format_name("web", 6, 0, "d" * 32).removeprefix("web/")).write_bytes(os.urandom(9999))
    os.mkfifo(root / "web" / format_name("web", 7, 0, "c" * 32).removeprefix("web/"))
    (root / "evil\n\x1b[2J.voltool").write_bytes(b"x")
    with (root / "volumes.json").open("wb") as file:
        file.truncate(ASIDE_MOST + (1 << 30))
    (root / "accepted.json").symlink_to("/etc/passwd")
    rebuild(world, [voltool.store.url], [])
    assert [dump.file for dump in world.catalog.dumps()] == [good]
    said = heard(world)
    assert f"-L0-{'d' * 32}.voltool is passed over" in said
    assert f"-L0-{'e' * 32}.voltool is passed over: it is not a file" in said
    assert f"-L0-{'c' * 32}.voltool is passed over: it is not a file" in said
    assert "volumes.json is passed over: it is" in said
    assert "/evil\\x0a\\x1b[2J.voltool is passed over" in said
    assert all(line.isprintable() for line in said.splitlines())


@pytest.mark.parametrize("nested", [b"[" * 100_000, b"{", b"\xff", b"null", b""])
def test_a_list_that_is_none(voltool: Console, world: World, nested: bytes) -> None:
    voltool.store.put_aside(volume_list.NAME, nested)
    rebuild(world, [voltool.store.url], [])
    assert "is not a list of volumes" in heard(world)
    keep_copies(world, voltool.store.url, None)
    assert kept(voltool).volumes == ()


# -------------------------------------------------------------------------------------------------- the command


def test_a_damaged_catalog_is_put_aside_and_made_anew(voltool: Console) -> None:
    put_dump(voltool, WEB, 1)
    voltool.store.put_aside(volume_list.NAME, volume_list.encode([ListedVolume(WEB, 1)], "1"))
    path = voltool.state / "catalog.sqlite"
    with voltool.catalog() as catalog:
        catalog.put_volume(MAIL)
    damaged = b"SQLite format 3\0" + os.urandom(20_000)
    path.write_bytes(damaged)
    refused = voltool("volume", "list")
    assert "voltool catalog rebuild" in refused.err
    voltool.hosts.dead.add("web1")
    result = voltool("--json", "catalog", "rebuild", "--store", voltool.store.url)
    assert result.code == EXIT_DONE
    fields = check_lines(result)
    assert [volume["name"] for volume in fields["volumes"]] == ["web"]
    assert Path(fields["put_aside"]).read_bytes() == damaged
    again = voltool("catalog", "rebuild", "--store", voltool.store.url)
    assert again.out == "the catalog has 1 volume and 1 dump\n"
    assert "put_aside" not in again.out
    assert len(list(voltool.state.glob("catalog.sqlite.damaged-*"))) == 1


def test_what_was_named_and_cannot_be_asked_is_an_error(voltool: Console) -> None:
    voltool.hosts.dead.add("web1")
    result = voltool("--json", "catalog", "rebuild", "--host", "web1", "--store", "sftp://127.0.0.1:1/srv")
    assert result.code == EXIT_UNREACHABLE
    assert [failure["subject"] for failure in check_lines(result)["errors"]] == ["sftp://127.0.0.1:1/srv", "web1"]


def test_a_copy_of_the_configuration_is_named_where_there_is_none(voltool: Console) -> None:
    put_dump(voltool, WEB, 1)
    voltool.store.put_aside(CONFIG, b"")
    assert f"{voltool.store.url}/config.toml is a copy" in voltool("catalog", "rebuild").err


# -------------------------------------------------------------------------------------------------- config show

CONFIGURATION = """store = "/srv/dumps"
codec = "none"

[keep]
daily = 7

[hosts.web1]
become = true

[volumes.web]
codec = "lz4"
keep.daily = 30
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIGURATION)
    monkeypatch.setenv("VOLTOOL_CONFIG", str(path))
    return path


def test_each_value_and_where_it_comes_from(voltool: Console, config: Path) -> None:
    fields = check_lines(voltool("--json", "config", "show"))
    settings = {setting["key"]: (setting["value"], setting["line"]) for setting in fields["settings"]}
    assert fields["file"] == str(config)
    assert settings["store"] == ('"/srv/dumps"', 1)
    assert settings["keep.daily"] == ("7", 5)
    assert settings["min_free"] == ("5.0", None)
    assert settings["hosts.web1.become"] == ("true", 8)
    assert settings["hosts.web1.connect_timeout"] == ("20", None)
    assert settings["volumes.web.codec"] == ('"lz4"', 11)
    assert settings["volumes.web.keep.daily"] == ("30", 12)
    assert "volumes.web.excludes" not in settings
    shown = voltool("config", "show").out
    assert re.search(r'^codec +"none" +line 2$', shown, re.MULTILINE)


def test_what_is_in_effect_for_one_volume(voltool: Console, config: Path) -> None:
    fields = check_lines(voltool("--json", "config", "show", "web"))
    settings = {setting["key"]: (setting["value"], setting["line"]) for setting in fields["settings"]}
    assert settings["volumes.web.codec"] == ('"lz4"', 11)
    assert settings["store"] == ('"/srv/dumps"', 1)
    assert settings["volumes.web.keep.daily"] == ("30", 12)
    assert settings["volumes.web.hook_timeout"] == ("60", None)
    assert "no volume" in voltool("config", "show", "wbe").err
    config.write_text("codec = 'lz5'\n")
    assert "line 1" in voltool("config", "show").err


def test_without_a_file_everything_is_the_default(voltool: Console) -> None:
    fields = check_lines(voltool("--json", "config", "show"))
    assert fields["file"] is None
    assert {setting["line"] for setting in fields["settings"]} == {None}
    assert fields["settings"][0]["value"] == json.dumps(f"file://{voltool.state}/store")
