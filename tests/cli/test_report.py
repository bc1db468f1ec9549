"""`voltool report` on the command line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.catalog.samples import SECOND, make_dump, make_volume
from tests.cli.fakes import Console
from tests.cli.test_json import check_lines
from voltool.policy.moves import DONE, MoveRecord
from voltool.policy.runs import VolumeRun

NOW = time.time_ns()
DAY = 86_400 * SECOND


@pytest.fixture
def site(voltool: Console) -> Console:
    for name in ("mail", "www"):
        voltool.add_volume(make_volume(name))
    mail = make_volume("mail")
    full = make_dump(1, volume=mail, time_ns=NOW - 40 * DAY)
    with voltool.catalog() as catalog:
        catalog.add_dump(full)
        catalog.add_dump(make_dump(2, volume=mail, level=1, base=full, time_ns=NOW - DAY))
        for run_id, error in (("a", ""), ("b", "no route")):
            catalog.add_run(VolumeRun(run_id, "mail", mail.uuid, "hostA", 1, NOW - 9 * SECOND, NOW, 1, error=error))
        catalog.put_move(MoveRecord("m", mail.uuid, "mail", "a", b"/\x1b", "b", b"/x", NOW - SECOND, NOW, DONE))
    return voltool


def test_in_short(site: Console) -> None:
    done = site("report")
    assert (done.code, done.err) == (0, "")
    mail = next(line for line in done.out.splitlines() if line.startswith("mail"))
    assert mail.split()[1:8] == ["1.4", "KiB", "+700", "B", "2", "1", "2"]
    assert "1 of 2" in mail
    assert "a:/\\x1b" in done.out
    assert "www" not in site("report", "mail").out
    assert site("report", "nothing").code == 1


def test_for_programs(site: Console) -> None:
    last = check_lines(site("report", "--json"))
    assert [(each["volume"], each["dumps"], each["grown_bytes"]) for each in last["volumes"]] == [
        ("mail", 2, 700),
        ("www", 0, 0),
    ]
    assert (len(last["runs"]), len(last["moves"]), last["html"]) == (2, 1, None)


def test_the_page_is_replaced_at_once(site: Console, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    before = page.stat().st_ino
    done = site("report", "--html", str(page))
    assert done.code == 0
    assert page.read_text().startswith("<!doctype html>")
    assert page.stat().st_ino != before
    assert list(tmp_path.glob("page.html*")) == [page]
    done = site("report", "--html", str(tmp_path / "no/page.html"))
    assert done.code == 1
    assert "the page cannot be written" in done.err
