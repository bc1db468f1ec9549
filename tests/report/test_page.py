"""The page of a report as a browser shows it: pictures, hostile names, light and dark, and nothing from anywhere."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.catalog.samples import SECOND, make_dump, make_volume
from voltool.backup.standing import standings
from voltool.catalog.sqlite import SqliteCatalog
from voltool.config.settings import Settings
from voltool.model import FileProblem, KnownVolume, Problem
from voltool.policy.moves import DONE, STOPPED, LockWindow, MoveRecord, MoveStep
from voltool.policy.runs import VolumeRun
from voltool.report.gather import gather
from voltool.report.page import render

NOW = time.time_ns()
DAY = 86_400 * SECOND
HOSTILE = "<script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium-headless-shell") or ""


class Page(HTMLParser):
    """What is in a page: for each volume the nodes and edges of its picture; scripts; addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.volume = ""
        self.nodes: dict[str, list[str]] = {}
        self.edges: dict[str, list[str]] = {}
        self.scripts = 0
        self.tags: list[str] = []
        self.links: list[str] = []
        self.titles = 0
        self.bars: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        kinds = values.get("class", "").split()
        self.tags.append(tag)
        self.links += [values[name] for name in ("src", "href", "action", "data", "xlink:href") if name in values]
        if tag == "details":
            self.volume = values["data-name"]
        if tag == "circle":
            self.nodes.setdefault(self.volume, []).append(values["class"])
        if tag == "path" and "edge" in kinds:
            self.edges.setdefault(self.volume, []).append(values["class"])
        if tag == "rect" and ("step" in kinds or "lock" in kinds):
            self.bars.append(values["class"])


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[SqliteCatalog]:
    made = SqliteCatalog(str(tmp_path / "catalog.sqlite"))
    fill(made)
    yield made
    made.close()


def fill(catalog: SqliteCatalog) -> None:
    """``mail``: a full dump, three that rest on it or on each other, one whose base is gone. And one whose names are hostile."""
    mail = make_volume("mail")
    evil = KnownVolume("e" * 32, HOSTILE, HOSTILE, HOSTILE.encode() + b"\xff\x1b", "directory")
    for volume in (mail, evil, make_volume("empty")):
        catalog.put_volume(volume)
    full = make_dump(1, volume=mail, time_ns=NOW - 4 * DAY)
    above = make_dump(2, volume=mail, level=3, base=full, time_ns=NOW - 3 * DAY)
    problems = (FileProblem(Problem.UNREADABLE, b"<b>", "EIO"),)
    top = make_dump(3, volume=mail, level=5, base=above, time_ns=NOW - 2 * DAY, problems=problems)
    beside = make_dump(4, volume=mail, level=1, base=full, time_ns=NOW - DAY)
    alone = make_dump(6, volume=mail, level=2, base=make_dump(5), time_ns=NOW)
    for dump in (full, above, top, beside, alone, make_dump(7, volume=evil, time_ns=NOW - 9 * DAY)):
        catalog.add_dump(dump)
    catalog.put_suspicious(mail.uuid, {beside.header.dump_id: HOSTILE})
    turn = VolumeRun("r1", "mail", mail.uuid, "hostA", 1, NOW - DAY, NOW - DAY + 5 * SECOND, 0)
    failed = dataclasses.replace(turn, volume=HOSTILE, volume_uuid=evil.uuid, exit_code=1, error=HOSTILE)
    for run in (turn, failed, dataclasses.replace(turn, run_id="r2", ended_ns=NOW, exit_code=3)):
        catalog.add_run(run)
    steps = (
        MoveStep("copy", NOW - DAY, 60.0, bytes=10**9, entries=5),
        MoveStep("lock", NOW - DAY + 61 * SECOND, 0.5),
        MoveStep("last increment", NOW - DAY + 62 * SECOND, 1.0, bytes=10**6, entries=5),
        MoveStep("publish", NOW - DAY + 63 * SECOND, -1.0),
    )
    locks = (LockWindow(NOW - DAY + 61 * SECOND, 3.0, 60),)
    move = MoveRecord(
        "m", mail.uuid, "mail", "a", b"/x", HOSTILE, b"/<b>", NOW - DAY, NOW - DAY + 70 * SECOND, STOPPED, steps, locks
    )
    catalog.put_move(move)
    catalog.put_move(
        dataclasses.replace(move, record_id="m2", volume_uuid=evil.uuid, outcome=DONE, steps=steps[:1], locks=())
    )


def page_of(catalog: SqliteCatalog) -> str:
    settings = Settings(schedule="weekly", timezone="UTC")
    return render(gather(catalog, standings(catalog, settings, NOW), NOW, [HOSTILE]), HOSTILE)


def browse(page: Path, *options: str) -> tuple[str, list[str]]:
    """The page's DOM after its scripts ran, and what the browser's console says."""
    done = subprocess.run(
        [
            CHROMIUM, "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=1000", *options, page.as_uri(),
        ],
        capture_output=True,
        check=True,
        timeout=120,
    )  # fmt: skip
    said = done.stderr.decode(errors="replace").splitlines()
    return done.stdout.decode(), [line for line in said if "CONSOLE" in line]


def background(page: Path, *options: str) -> int:
    """How bright (0 to 255) the top left corner of the page is."""
    picture = page.with_suffix(".png")
    browse(page, f"--screenshot={picture}", "--window-size=300,300", *options)
    data = picture.read_bytes()
    chunks = b"".join(
        data[match.end() : match.end() + int.from_bytes(data[match.start() - 4 : match.start()])]
        for match in re.finditer(b"IDAT", data)
        if int.from_bytes(data[match.start() - 4 : match.start()]) < len(data)
    )
    # The first pixel has no neighbours, so that every filter of PNG leaves it as it is.
    return max(zlib.decompressobj().decompress(chunks, 4)[1:4])


def test_in_a_browser(catalog: SqliteCatalog, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_of(catalog), encoding="utf-8")
    dom, console = browse(page, "--dump-dom")
    assert console == []
    assert 'class="with-script"' in dom  # the script that belongs there ran
    assert "<title>voltool on &lt;script&gt;" in dom  # and no other
    seen = Page(dom)
    assert (seen.tags.count("script"), seen.tags.count("style"), seen.tags.count("img")) == (1, 1, 0)
    assert all(link.startswith("#") for link in seen.links)
    assert [len(seen.nodes[name]) for name in ("mail", HOSTILE)] == [5, 1]
    assert "empty" not in seen.nodes
    assert [sum("full" in each.split() for each in seen.nodes[name]) for name in ("mail", HOSTILE)] == [1, 1]
    assert sum("suspicious" in each for each in seen.nodes["mail"]) == 1
    assert sum("problems" in each for each in seen.nodes["mail"]) == 1
    assert sorted(seen.edges["mail"]) == ["edge", "edge", "edge", "edge faded"]
    # The first move: four steps, its lock, and below it the lock with three steps; the second: one step.
    assert sum("step" in each.split() for each in seen.bars) == 4 + 3 + 1
    assert sum("lock" in each.split() for each in seen.bars) == 2
    # As the system prefers it, without the page's script; and by the page's own switch.
    plain = tmp_path / "plain.html"
    plain.write_text(
        re.sub(r"<script>.*</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL), encoding="utf-8"
    )
    assert background(plain, "--blink-settings=preferredColorScheme=0") < 60
    assert background(plain, "--blink-settings=preferredColorScheme=1") > 200
    switched = tmp_path / "switched.html"
    switched.write_text(
        page.read_text(encoding="utf-8").replace("<html ", '<html data-theme="dark" '), encoding="utf-8"
    )
    assert background(switched, "--blink-settings=preferredColorScheme=1") < 60


def test_that_the_browser_would_tell(tmp_path: Path) -> None:
    """What the test above relies on: a page that loads or runs something else is heard of."""
    text = render(gather(_Empty(), [], NOW), "host")  # type: ignore[arg-type]
    page = tmp_path / "page.html"
    page.write_text(text.replace("</main>", '<script>1</script><img src="https://example.org/x.png"></main>'))
    _dom, console = browse(page, "--dump-dom")
    assert len([line for line in console if "Content Security Policy" in line]) == 2


class _Empty:
    """A catalog with nothing in it."""

    def newest_dumps(self, _each: int) -> list[object]:
        return []

    def runs(self, **_about: object) -> list[object]:
        return []

    def moves(self) -> list[object]:
        return []

    def stored_over_time(self, *_about: object) -> list[object]:
        return []


def test_nothing_is_loaded_and_every_name_is_escaped(catalog: SqliteCatalog) -> None:
    text = page_of(catalog)
    assert HOSTILE not in text
    assert "http:" not in text
    assert "https:" not in text
    assert "\x1b" not in text
    assert "\\xff\\x1b" in text
    assert "default-src 'none'" in text


def test_one_volume(catalog: SqliteCatalog) -> None:
    found = [each for each in standings(catalog, Settings(), NOW) if each.volume.name == "mail"]
    seen = Page(render(gather(catalog, found, NOW), "host"))
    assert set(seen.nodes) == {"mail"}
    assert len(seen.nodes["mail"]) == 5


def test_a_wheel_has_the_page(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(root),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"voltool/report/templates/page.{kind}" for kind in ("html", "css", "js")} <= set(names)
