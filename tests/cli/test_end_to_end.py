"""The real thing from the command line on: a real sshd, a real agent, a real store; as cron calls it, and on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_json import SCHEMA, check_fields
from tests.hosts import VOLTOOL, Site
from tests.terminal import OnTerminal


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path / "site") as made:
        made.add_host("hostA")
        yield made


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "srv" / "vol1"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(b"content")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\n")).write_bytes(b"x" * 5000)
    (root / "large").write_bytes(os.urandom(3 << 20))
    return root


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines[:-1]:
        check_fields(line, SCHEMA[line["event"]], line["event"])
    last: dict[str, Any] = lines[-1]
    check_fields(
        last, {**SCHEMA["result"], **SCHEMA.get({"dumps": "dump"}.get(last["command"], last["command"]), {})}, "result"
    )
    assert last["exit"] == done.returncode
    return last


def test_add_dump_list_over_ssh(site: Site, volume: Path) -> None:
    added = site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    assert added.stdout == f"vol1: added: hostA:{volume}, driver directory\n"
    assert "already" in site.voltool("volume", "add", "vol1", f"hostA:{volume}").stdout
    first = site.voltool("dump", "vol1")
    assert f"the store is file://{site.state}/store" in first.stderr
    assert first.stdout.count("\n") == 1
    (volume / "sub" / "new").write_bytes(b"new")
    last = result(site.voltool("dump", "--level", "1", "vol1", "--json"))
    (dump,) = last["dumps"]
    assert (dump["level"], dump["entries"], dump["consistency"]) == (1, 5, "live")
    assert dump["data_bytes"] < 100
    assert os.path.getsize(site.state / "store" / dump["file"]) == dump["stored_bytes"]
    listed = result(site.voltool("dumps", "vol1", "--json"))["dumps"]
    assert listed[1] == dump
    assert dump["base"] == listed[0]["id"]
    shown = result(site.voltool("volume", "show", "vol1", "--json"))
    assert len(shown["record"]["states"]) == 2


def test_a_lost_catalog_costs_nothing(site: Site, volume: Path) -> None:
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    site.voltool("dump", "vol1")
    before = result(site.voltool("dumps", "--json"))["dumps"]
    identity = result(site.voltool("volume", "list", "--json"))["volumes"]
    for file in site.state.glob("catalog.sqlite*"):
        file.unlink()
    after = result(site.voltool("dumps", "--json"))["dumps"]
    assert [{**dump, "seconds": 0} for dump in before] == after
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    assert result(site.voltool("volume", "list", "--json"))["volumes"] == identity
    dump = result(site.voltool("dump", "vol1", "--level", "1", "--json"))["dumps"][0]
    assert dump["base"] == before[0]["id"]


def test_a_damaged_file_in_the_store_is_passed_over_and_named(site: Site, volume: Path) -> None:
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    dump = result(site.voltool("dump", "vol1", "--json"))["dumps"][0]
    for file in site.state.glob("catalog.sqlite*"):
        file.unlink()
    path = site.state / "store" / dump["file"]
    os.truncate(path, dump["stored_bytes"] - 1)
    done = site.voltool("dumps", "--json")
    assert result(done)["dumps"] == []
    assert dump["file"] in done.stdout
    assert path.exists()


def test_a_renamed_volume_keeps_its_chain(site: Site, volume: Path) -> None:
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    base = result(site.voltool("dump", "vol1", "--json"))["dumps"][0]
    site.voltool("volume", "set", "vol1", "--name", "renamed")
    dump = result(site.voltool("dump", "renamed", "--level", "1", "--json"))["dumps"][0]
    assert (dump["base"], dump["volume"]) == (base["id"], "renamed")
    assert len(result(site.voltool("dumps", "renamed", "--json"))["dumps"]) == 2


def test_what_is_refused(site: Site, volume: Path) -> None:
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    assert site.voltool("volume", "add", "vol2", f"hostA:{volume}/sub", check=False).returncode == 2
    assert site.voltool("volume", "add", "vol2", f"hostA:{volume}-not-there", check=False).returncode == 1
    assert site.voltool("volume", "add", "vol2", f"local:{site.state.parent}", check=False).returncode == 1
    done = site.voltool("dump", "vol1", "vol2", check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("vol1: dump")


def test_removing_forgets_and_deletes_nothing(site: Site, volume: Path) -> None:
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    site.voltool("dump", "vol1")
    before = sorted(os.listdir(volume))
    last = result(site.voltool("volume", "remove", "vol1", "--json"))
    assert last["reached"] is True
    assert all(os.path.lexists(path) for path in last["left"])
    assert sorted(os.listdir(volume)) == before
    assert len(result(site.voltool("dumps", "vol1", "--json"))["dumps"]) == 1


def test_an_unknown_host_is_6(site: Site) -> None:
    done = site.voltool("volume", "add", "vol1", "nowhere.invalid:/srv/x", check=False)
    assert done.returncode == 6
    assert "where: nowhere.invalid" in done.stderr


def test_bars_on_a_terminal_have_a_true_total(site: Site, volume: Path) -> None:
    site.voltool("volume", "add", "vol1", f"local:{volume}")
    with OnTerminal([str(VOLTOOL), "dump", "vol1", "--bandwidth", "2M"], site.environment) as terminal:
        assert terminal.wait() == 0
    assert any("vol1: dump" in text and "B/3.0" in text and "files [" in text for text in terminal.screen.seen), (
        terminal.screen.seen
    )
    shown = terminal.screen.text()
    assert "files [" not in shown
    assert any(line.startswith("vol1: dump ") and "level 0" in line for line in shown.splitlines())


def test_restore_verify_ls_cat(site: Site, volume: Path, tmp_path: Path) -> None:
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    zero = result(site.voltool("dump", "vol1", "--json"))["dumps"][0]
    (volume / "sub" / "file").write_bytes(b"changed")
    one = result(site.voltool("dump", "vol1", "--level", "1", "--json"))["dumps"][0]
    chain = [zero["id"], one["id"]]

    target = tmp_path / "restored"
    done = site.voltool("restore", "vol1", f"hostA:{target}", "--json")
    last = result(done)
    assert (last["dumps"], last["entries"], last["problems"]) == (chain, 4, [])
    assert subprocess.run(["diff", "-r", volume, target], check=False).returncode == 0
    assert json.loads(done.stdout.splitlines()[0])["event"] == "chosen"
    older = tmp_path / "older"
    site.voltool("restore", "vol1", f"hostA:{older}", "--at", zero["time"])
    assert (older / "sub" / "file").read_bytes() == b"content"
    again = site.voltool("restore", "vol1", f"hostA:{target}", check=False)
    assert again.returncode == 1
    assert again.stderr

    assert result(site.voltool("verify", "--json"))["verified"][0]["dumps"] == chain
    assert result(site.voltool("verify", "vol1", zero["id"][:12], "--json"))["verified"][1]["dumps"] == chain[:1]
    listed = [json.loads(line) for line in site.voltool("ls", "vol1", "--json").stdout.splitlines()]
    names = [line["name"] for line in listed if line["event"] == "entry"]
    assert names == ["large", "sub", {"b64": "/wo="}]
    assert "\\xff\\x0a" in site.voltool("ls", "vol1", "/").stdout
    assert site.voltool("cat", "vol1", "sub/file").stdout == "changed"
    assert site.voltool("cat", zero["id"], "/sub/file").stdout == "content"
    assert site.voltool("cat", "vol1", "nothing", check=False).returncode == 1
    _find_and_diff(site, zero, one)


def _find_and_diff(site: Site, zero: dict[str, Any], one: dict[str, Any]) -> None:
    """What `find` prints is pasted into a shell; what `diff` tells is what happened."""
    (found,) = [json.loads(line) for line in site.voltool("find", "/sub/file", "--json").stdout.splitlines()[:-1]]
    assert [(version["first"], version["size"]) for version in found["versions"]] == [(zero["id"], 7), (one["id"], 7)]
    lines = site.voltool("find", "*", "vol1", "--at", zero["time"]).stdout.splitlines()
    for line in lines:
        assert line.isprintable()
        if line.startswith("  -"):
            words = (
                line[line.rindex(zero["id"][:12]) :] if zero["id"][:12] in line else line[line.rindex(one["id"][:12]) :]
            )
            subprocess.run(
                ["bash", "-c", f"{VOLTOOL} --quiet cat {words}"], env=site.environment, check=True, capture_output=True
            )
    nothing = site.voltool("find", "nothing of that name", check=False)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "nothing in the dumps matches" in nothing.stderr
    assert site.voltool("find", "x", "--at", "yesterday", "--since", "yesterday", check=False).returncode == 2
    told = site.voltool("diff", "vol1").stdout.splitlines()
    assert told[0].startswith("M sub/file  (content, mtime")
    assert "1 changed" in told[-1]
    assert site.voltool("diff", f"vol1@{zero['time']}", one["id"]).stdout.splitlines() == told
    assert site.voltool("diff", one["id"], zero["id"], "--only", "other").stdout == "no difference\n"
    assert site.voltool("diff", zero["id"], check=False).returncode == 1


def test_a_damaged_dump_is_5(site: Site, volume: Path, tmp_path: Path) -> None:
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    dump = result(site.voltool("dump", "vol1", "--json"))["dumps"][0]
    path = site.state / "store" / dump["file"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    verified = site.voltool("verify", "--json", check=False)
    assert verified.returncode == 5
    assert result(verified)["error"]["kind"] == "integrity"
    assert site.voltool("restore", "vol1", f"hostA:{tmp_path}/target", check=False).returncode == 5
    assert not (tmp_path / "target").exists()


def test_host_check_and_clean(site: Site, volume: Path) -> None:
    facts = {fact["topic"]: fact for fact in result(site.voltool("host", "check", "hostA", "--json"))["facts"]}
    assert any("python" in topic for topic in facts)
    assert all(fact["ok"] or fact["try"] for fact in facts.values())
    site.voltool("volume", "add", "vol1", f"hostA:{volume}")
    assert site.voltool("host", "clean", "hostA", check=False).returncode == 1
    site.voltool("volume", "remove", "vol1")
    named = result(site.voltool("host", "clean", "hostA", "--dry-run", "--json"))["paths"]
    assert all(os.path.lexists(path) for path in named)
    assert result(site.voltool("host", "clean", "hostA", "--json"))["dry_run"] is False
    assert not any(os.path.lexists(path) for path in named)
    assert volume.is_dir()
