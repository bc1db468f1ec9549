"""Replicas on the command line: what is shown, and what silence means. The hosts are made up; real ones: tests/replica."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.catalog.samples import SECOND, make_volume
from tests.cli.fakes import Console
from tests.cli.test_json import check_lines
from voltool.model import FILLING, LAZY, SERVING, KnownReplica, Peer, ReplicaBase, ReplicaRecord
from voltool.wire.replicas import FillingHome, ReplicasReply, ReplicaStatus

HOUR = 3600 * SECOND
MAIL = make_volume("mail")
GOOD = KnownReplica("1" * 32, MAIL.uuid, "hostB", b"/srv/\x1bmail", phase=SERVING)


@pytest.fixture
def site(voltool: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    """``mail`` has a replica of a minute ago; two hours are allowed."""
    config = tmp_path / "voltool.toml"
    config.write_text('max_lag = "2h"\n[volumes.free]\nmax_lag = "9d"\n')
    monkeypatch.setenv("VOLTOOL_CONFIG", str(config))
    voltool.add_volume(MAIL)
    put(voltool, seen(GOOD, 60 * SECOND))
    return voltool


def seen(known: KnownReplica, age_ns: int, sequence: int = 7, home_sequence: int = 9) -> KnownReplica:
    now = time.time_ns()
    return replace(
        known, sequence=sequence, home_sequence=home_sequence, clone_time_ns=now - age_ns, checked_ns=now - age_ns
    )


def put(console: Console, *replicas: KnownReplica) -> None:
    with console.catalog() as catalog:
        for each in replicas:
            catalog.put_replica(each)


def remembered(console: Console) -> list[KnownReplica]:
    with console.catalog() as catalog:
        return catalog.replicas()


def status_of(known: KnownReplica, **values: object) -> ReplicaStatus:
    home = Peer("hostA", "", "", MAIL.path)
    record = ReplicaRecord(
        known.replica_id, known.volume_uuid, "mail", known.path, home, known.phase, 1, None, "",
        known.sequence, known.clone_time_ns,
    )  # fmt: skip
    return ReplicaStatus(record, **values)  # type: ignore[arg-type]


def test_a_replica_within_its_limit_is_no_concern(site: Console) -> None:
    assert site("status").code == 0
    health = check_lines(site("status", "--json"))["volumes"][0]["replicas"][0]
    assert (health["state"], health["lag_clones"], health["max_lag"], health["stale"]) == ("ok", 2, 7200, False)
    assert "1, 1 min 0 s behind" in site("status").out
    assert check_lines(site("report", "--json"))["replicas"][0]["host"] == "hostB"
    assert "hostB:/srv/\\x1bmail" in site("report").out


def test_a_stale_one_is_an_exit_code_of_status_and_list(site: Console, tmp_path: Path) -> None:
    site.add_volume(make_volume("free"))
    put(site, seen(GOOD, 3 * HOUR), replace(seen(GOOD, 3 * HOUR), replica_id="2", volume_uuid=make_volume("free").uuid))
    done = site("status")
    assert done.code == 3
    assert "mail: replica hostB:/srv/\\x1bmail: stale: its state is 3 h 0 min old, and max_lag is 2 h 0 min" in done.out
    assert site("status", "free").code == 0
    assert [each["kind"] for each in check_lines(site("status", "--json"))["concerns"]] == ["stale"]
    page = tmp_path / "page.html"
    assert site("report", "--html", str(page)).code == 0
    assert '<span class="pill stale">stale</span>' in page.read_text()
    site.hosts.dead.add("hostB")
    done = site("replica", "list")
    assert done.code == 3
    assert "its host could not be asked: no route" in done.out


def test_the_list_is_what_the_hosts_say_and_is_remembered(site: Console) -> None:
    lazy = replace(seen(GOOD, 30 * SECOND, sequence=9), phase=LAZY)
    site.hosts.replied = ReplicasReply((status_of(lazy, missing_bytes=3 << 20, missing_files=2),), ())
    done = site("replica", "list")
    row = done.out.splitlines()[1].split()
    assert (row[0], row[-1]) == ("mail", "lazy")
    assert "3.0 MiB" in done.out
    (known,) = remembered(site)
    assert (known.phase, known.missing_bytes, known.sequence) == (LAZY, 3 << 20, 9)
    full = replace(lazy, phase=SERVING)
    site.hosts.replied = ReplicasReply((status_of(full),), ())
    assert site("replica", "list").out.splitlines()[1].split()[-1] == "ok"
    assert remembered(site)[0].phase == LAZY, "until a sync has told those that served it to stop"
    site.hosts.dead.add("hostB")
    site.hosts.replied = ReplicasReply((), ())
    (told,) = check_lines(site("replica", "list", "mail", "--json"))["replicas"]
    assert (told["state"], told["silent"], told["missing_bytes"]) == ("unreachable", "no route", 0)


def test_a_home_that_a_lazy_move_is_filling_is_there_until_all_has_come(site: Console) -> None:
    way = "reverse"
    home = FillingHome(MAIL.uuid, "7" * 32, b"/srv/mail", 5 << 20, 3, True, (), way)  # noqa: FBT003 - as it is told
    site.hosts.replied = ReplicasReply((status_of(GOOD),), (), (home,))
    done = site("replica", "list", "mail")
    row = next(line.split() for line in done.out.splitlines() if "lazy home" in line)
    assert (row[1], row[2:4], "5.0 MiB" in done.out, way in row) == (f"{MAIL.host}:/srv/mail", ["-", "-"], True, True)
    told = check_lines(site("replica", "list", "mail", "--json"))["replicas"][0]
    assert (told["role"], told["state"], told["missing_bytes"], told["way"]) == ("home", "lazy home", 5 << 20, way)
    assert [each.role for each in remembered(site)] == ["replica"]
    site.hosts.replied = ReplicasReply((status_of(GOOD),), (), (replace(home, running=False),))
    assert (site("replica", "list").code, "does not run" in site("replica", "list").out) == (3, True)


def test_what_its_host_finds_wrong_is_an_exit_code(site: Console) -> None:
    site.hosts.replied = ReplicasReply((status_of(GOOD, running=False, faults=("it is not read-only",)),), ())
    done = site("replica", "list")
    assert (done.code, "it is not read-only" in done.out) == (3, True)
    site.hosts.replied = ReplicasReply((), ())
    assert "its host has no replica of the volume" in site("replica", "list").out


def test_one_that_was_never_filled_is_stale_when_filling_it_failed(site: Console) -> None:
    put(site, replace(GOOD, phase=FILLING))
    assert site("status").code == 0
    put(site, replace(GOOD, phase=FILLING, fault="no room"))
    done = site("status")
    assert (done.code, "it serves nothing yet" in done.out) == (3, True)


def test_a_volume_with_replicas_is_not_removed(site: Console) -> None:
    done = site("volume", "remove", "mail")
    assert (done.code, "voltool replica remove mail hostB" in done.err) == (1, True)
    assert len(remembered(site)) == 1


def test_what_a_home_keeps_for_nobody_is_found(site: Console) -> None:
    base = ReplicaBase("9" * 32, MAIL.uuid, Peer("hostX", "", "", b"/x"), "s" * 64, 1, 1)
    site.hosts.replied = ReplicasReply((status_of(GOOD),), (base,))
    found = [each for each in site("doctor", "--json").result["findings"] if each["kind"] == "replica"]
    assert found
    assert all("voltool replica remove mail hostX --forget-host" in each["remedy"] for each in found)


def test_a_replica_that_the_catalog_does_not_know_is_learned(site: Console) -> None:
    with site.catalog() as catalog:
        catalog.remove_replica(GOOD.replica_id)
    site.hosts.replied = ReplicasReply((status_of(seen(GOOD, SECOND)),), ())
    assert "a replica that the catalog does not know" in site("doctor").out
    assert site("doctor", "--fix").code in (0, 1)
    assert [each.replica_id for each in remembered(site)] == [GOOD.replica_id]


def test_where_says_where_replicas_are(site: Console) -> None:
    site("volume", "add", "web", "hostA:/srv/web")
    (record,) = site.hosts.records.values()
    put(site, replace(seen(GOOD, SECOND), replica_id="3", volume_uuid=record.uuid, path=b"/srv/web"))
    assert site("where", "web").out == "hostA:/srv/web\n"
    assert site("where", "web", "--replicas").out == "hostA:/srv/web\nhostB:/srv/web\n"
    assert check_lines(site("where", "web", "--json"))["replicas"][0]["host"] == "hostB"
    assert "hostB:/srv/web: ok" in site("volume", "show", "web").out


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["replica", "sync"], "usage"), (["replica", "sync", "mail", "--all"], "usage"),
        (["replica", "sync", "mail", "hostZ"], "not_found"), (["replica", "sync", "nothing"], "not_found"),
        (["replica", "add", "mail", "hostA"], "refused"), (["replica", "add", "mail", "hostB:/elsewhere"], "refused"),
        (["replica", "remove", "mail", "hostB", "--purge", "--forget-host"], "refused"),
    ],
)  # fmt: skip
def test_what_is_refused_at_once(site: Console, arguments: list[str], kind: str) -> None:
    before = remembered(site)
    assert check_lines(site(*arguments, "--json"))["error"]["kind"] == kind
    assert remembered(site) == before


def test_a_host_that_cannot_be_reached_keeps_its_replica(site: Console) -> None:
    site.hosts.dead.add("hostB")
    done = site("replica", "remove", "mail", "hostB")
    assert (done.code, "--forget-host" in done.err) == (6, True)
    done = site("replica", "sync", "--all")
    assert (done.code, "no route" in done.err) == (6, True)
    (known,) = remembered(site)
    assert "no route" in known.fault
    assert "it could not be brought up to date" in site("status").out


def test_metrics(site: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "metrics.toml"
    config.write_text(f'max_lag = 60\n[notify]\nmetrics = "{tmp_path}/voltool.prom"\n')
    monkeypatch.setenv("VOLTOOL_CONFIG", str(config))
    put(site, seen(GOOD, 2 * HOUR))
    site.hosts.dead.add("hostB")
    site("replica", "list")
    text = (tmp_path / "voltool-replicas.prom").read_text()
    assert 'voltool_replica_stale{host="hostB",volume="mail"} 1.0' in text
    lag = next(line for line in text.splitlines() if line.startswith("voltool_replica_lag_seconds{"))
    assert 7200 <= float(lag.split()[-1]) < 8000


def test_a_faulty_section_fails_its_volume_alone(
    site: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "faulty.toml"
    config.write_text("[volumes.mail]\nnonsense = 1\n")
    monkeypatch.setenv("VOLTOOL_CONFIG", str(config))
    last = check_lines(site("replica", "sync", "--all", "--json"))
    assert (last["exit"], last["synced"]) == (2, [])
    assert last["errors"][0]["subject"] == "mail on hostB"
