"""A thousand volumes with four hundred dumps each: what people wait for answers in less than a second after start-up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.catalog.many import CYCLE, DAY, fill, name_of
from tests.cli.fakes import Console, Result
from voltool.catalog.sqlite import SqliteCatalog
from voltool.config.paths import catalog_path
from voltool.statedir import state_directory

VOLUMES, DUMPS = 1000, 400
#: Seconds of processor time.
LIMIT = 1.0
TRIES = 3


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory with a catalog, and a store that has a directory for each volume; one of them with its files."""
    state = tmp_path_factory.mktemp("scale")
    catalog_file = Path(catalog_path(str(state)))
    store = state / "store"
    url = f"file://{store}"
    fill(catalog_file, VOLUMES, DUMPS, store=url, now_ns=time.time_ns() - 3 * DAY)  # nothing since: all are due
    catalog = SqliteCatalog(str(catalog_file))
    marks: dict[str, int | None] = {}
    for volume in range(VOLUMES):
        directory = store / name_of(volume)
        directory.mkdir(parents=True)
        if volume == 7:
            for file in catalog.files_in(url, directory.name):
                (store / file).touch()
        marks[directory.name] = directory.stat().st_mtime_ns
    catalog.put_listed(url, marks)
    catalog.close()
    yield state
    for each in state.glob("catalog*"):
        each.unlink()


@pytest.fixture
def large(state: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    monkeypatch.setenv("VOLTOOL_STATE_DIR", str(state))
    assert state_directory({"VOLTOOL_STATE_DIR": str(state)}, 0) == str(state)
    return Console(state, monkeypatch)


def answers_at_once(call: Callable[[], Result]) -> Result:
    """The processor time of the best of some calls is below the limit. The first call also imports: that is start-up."""
    done = call()
    times = []
    for _ in range(TRIES):
        began = time.process_time()
        done = call()
        times.append(time.process_time() - began)
        if times[-1] < LIMIT:
            break
    assert min(times) < LIMIT, times
    return done


def test_dumps_of_all_volumes(large: Console) -> None:
    done = answers_at_once(lambda: large("dumps"))
    assert done.code == 0
    assert len(done.out.splitlines()) == 1 + VOLUMES
    assert f"{VOLUMES * DUMPS - VOLUMES:,} older" in done.err
    assert "missing" not in done.out


def test_dumps_of_one_volume(large: Console) -> None:
    done = answers_at_once(lambda: large("dumps", name_of(7)))
    assert len(done.out.splitlines()) == 1 + DUMPS
    assert "missing" not in done.out
    assert done.err == ""


def test_one_dump_by_its_id(large: Console) -> None:
    from voltool.backup.discover import dumps_meant

    dump_id = large("dumps", name_of(7)).out.splitlines()[-1].split()[0]

    def find() -> Result:
        from voltool.cli.invocation import Invocation
        from voltool.cli.output import Output

        with Invocation(Output(), {"VOLTOOL_STATE_DIR": str(large.state)}, large.world) as invocation:
            found = dumps_meant(invocation.world, [], dump_id)
        assert len(found) == DUMPS
        return Result(0, "", "")

    answers_at_once(find)


def test_what_is_due_and_the_schedule(large: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('schedule = "monthly"\n')
    monkeypatch.setenv("VOLTOOL_CONFIG", str(tmp_path / "config.toml"))
    done = answers_at_once(lambda: large("backup", "--dry-run"))
    assert done.code == 0
    assert len(done.out.splitlines()) > 30
    done = answers_at_once(lambda: large("schedule", "show"))
    assert sum(line.startswith("vol") for line in done.out.splitlines()) == VOLUMES


def test_status(large: Console) -> None:
    (large.state / "voltool.toml").write_text(f'schedule = "{CYCLE}"\n')
    done = answers_at_once(lambda: large("status", "--config", str(large.state / "voltool.toml")))
    assert done.code == 3
    assert done.out.count(" overdue: ") == VOLUMES


def test_a_page_of_all_volumes_is_of_a_usable_size(large: Console) -> None:
    page = large.state / "page.html"
    assert large("report", "--html", str(page)).code == 0
    text = page.read_text()
    assert text.count('<details class="volume"') == VOLUMES
    assert len(text) < 8_000_000
