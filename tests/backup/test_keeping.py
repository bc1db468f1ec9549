"""What the configuration says of keeping, and what a store remembers, whoever wrote it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from voltool.backup.keeping import keeping_of
from voltool.backup.marks import NAME, Marks, accept, note_judged, note_undeleted, read_marks
from voltool.config.load import read_settings
from voltool.errors import UsageError
from voltool.policy.retention import Rules
from voltool.stores.local import LocalStore


def test_a_volumes_section_changes_the_keys_that_it_has(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        'synthetic_full = "weekly"\ntimezone = "Europe/Berlin"\n[keep]\ndaily = 7\nweekly = 4\ngrace = "3d"\n'
        '[volumes.db]\nsuspicious_factor = 3.0\n[volumes.db.keep]\ndaily = 30\nmin_age = "2h"\n'
    )
    settings = read_settings(str(path))
    general, db = keeping_of(settings, "mail"), keeping_of(settings, "db")
    assert general.rules == Rules(daily=7, weekly=4)
    assert db.rules == Rules(daily=30, weekly=4, min_age=7200)
    assert (general.factor, db.factor) == (10.0, 3.0)
    assert (db.grace, db.synthetic_full, str(db.zone)) == (3 * 86_400, "weekly", "Europe/Berlin")


def test_a_zone_that_nobody_knows_is_said(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('timezone = "Mars/Olympus"\n')
    with pytest.raises(UsageError, match="no time zone"):
        keeping_of(read_settings(str(path)), "mail")


def test_what_a_store_remembers(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    assert read_marks(store) == Marks()
    accept(store, ("a" * 32,), 5)
    note_judged(store, "vol", 7)
    note_judged(store, "vol", 3)
    note_undeleted(store, ("b" * 32,), 10**18)
    assert read_marks(store) == Marks({"a" * 32: 5}, {"vol": 7}, {"b" * 32: 10**18})


def test_two_who_write_a_note_at_once_do_not_mix_it(tmp_path: Path) -> None:
    """Two volumes are worked on at the same time; each writes a note as long as it likes."""
    stores = [LocalStore(str(tmp_path / "store")) for _writer in range(4)]
    texts = [bytes([65 + number]) * (200_000 * number + 1) for number in range(4)]

    def write(number: int) -> None:
        for _time in range(10):
            stores[number].put_aside("note", texts[number])
            assert stores[number].get_aside("note") in texts

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["note"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        '{"accepted": 1}',
        '{"accepted": {"a": "b"}, "judged": {"v": true}}',
        "\xff",
        "[" * 100_000,
    ],
)
def test_what_somebody_else_wrote_there_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    assert read_marks(LocalStore(str(tmp_path))) == Marks()
