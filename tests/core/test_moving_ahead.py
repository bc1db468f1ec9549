"""What is renamed ahead of every listing of a live tree, from a directory still to be listed into one already listed.

Each directory of the two is listed anew in every round, and never has it at that moment. What must hold: it is found after
the last round; where it is not, it is kept from the base; and a dump that may lack something says so. Each cure is taken out
once, and the loss is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.core.harness import Rig
from tests.core.test_while_dumping import assert_equal, rest, restored
from tests.judge import compare
from voltool.model import Problem
from voltool.tree import walk
from voltool.tree.classify import Classifier
from voltool.tree.walk import ROUNDS

OTHER = {"first": "a", "a": "b", "b": "a"}


def moves_ahead(volume: Path, *, listings: int = 1 << 30) -> Callable[[], None]:
    """When ``first``, ``a`` or ``b`` is about to be listed, what is called ``restless`` in it is renamed into another one; as
    long as ``a`` and ``b`` are listed no more often than that."""

    def inject() -> None:
        real = os.scandir
        left = [listings]

        def scandir(where: Any) -> Any:
            path = Path(os.readlink(f"/proc/self/fd/{where}")) if isinstance(where, int) else Path()
            if path.parent == volume and path.name in OTHER and left[0]:
                left[0] -= path.name != "first"
                if (path / "restless").exists():
                    (path / "restless").rename(volume / OTHER[path.name] / "restless")
            return real(where)

        walk.os.scandir = scandir  # type: ignore[attr-defined]

    return inject


def make_tree(volume: Path, kind: str) -> None:
    """``restless`` begins in a directory that is quiet soon after it has left."""
    for name in ("first", "a", "b", "quiet"):
        (volume / name).mkdir()
        (volume / name / "stays").write_bytes(name.encode())
    restless = volume / "first" / "restless"
    if kind == "directory":
        (restless / "sub").mkdir(parents=True)
        restless = restless / "sub" / "deep"
    restless.write_bytes(b"always here")
    rest()


def contents(root: Path) -> set[str]:
    """What is anywhere below the three directories, wherever it has moved to."""
    found = set()
    for name in OTHER:
        found |= {str(path.relative_to(root / name)) for path in (root / name).rglob("*")}
    return found


def busy_directories(rig: Rig) -> set[bytes]:
    """Those that are named, without the one that was itself renamed a moment ago."""
    named = {path for path, found in rig.problems().items() if found.problem is Problem.UNSTABLE}
    return {path for path in named if not path.endswith(b"/restless")}


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("level", [0, 1])
def test_what_moved_ahead_of_every_round_is_found_after_the_last(rig: Rig, kind: str, level: int) -> None:
    """Cure: ``latecomers``."""
    make_tree(rig.path, kind)
    if level:
        rig.dump(0)
    dump = rig.dump(level, inject=moves_ahead(rig.path, listings=2 * (1 + ROUNDS)))
    differences = compare(rig.path, restored(rig, dump), ignore={"mtime", "rsync"})
    assert differences == []
    assert busy_directories(rig) <= {b"a", b"b"}
    assert_equal(rig, rig.dump(2))


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_moves_ahead_of_every_listing_is_kept_from_the_base(rig: Rig, kind: str) -> None:
    """Cure: ``_keep_names`` in classify.py, also for directories that are quiet in the end."""
    make_tree(rig.path, kind)
    rig.dump(0)
    dump = rig.dump(1, inject=moves_ahead(rig.path))
    target = restored(rig, dump)
    assert contents(target) == contents(rig.path)
    assert rig.outcome is not None
    assert rig.outcome.exit_code == 3
    assert busy_directories(rig)
    assert busy_directories(rig) <= {b"a", b"b"}
    assert_equal(rig, rig.dump(2))


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_first_dump_that_may_lack_something_says_so(rig: Rig, kind: str) -> None:
    make_tree(rig.path, kind)
    rig.dump(0, inject=moves_ahead(rig.path))
    assert rig.outcome is not None
    assert rig.outcome.exit_code == 3
    assert busy_directories(rig)
    assert busy_directories(rig) <= {b"a", b"b"}
    assert_equal(rig, rig.dump(1))


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("level", [0, 1])
def test_it_is_lost_without_the_cures(rig: Rig, kind: str, level: int) -> None:
    make_tree(rig.path, kind)
    if level:
        rig.dump(0)

    def uncured() -> None:
        patch.object(walk, "latecomers", lambda *_arguments: [], create=True).start()
        patch.object(Classifier, "_may_have_left", lambda *_arguments: False, create=True).start()
        moves_ahead(rig.path, listings=2 * (1 + ROUNDS))()

    dump = rig.dump(level, inject=uncured)
    assert "restless" not in contents(restored(rig, dump))


def test_what_was_deleted_stays_deleted_though_a_directory_never_rests(rig: Rig) -> None:
    """Only what was where it is missing when the walk began may have moved ahead of it."""
    make_tree(rig.path, "file")
    (rig.path / "quiet" / "deleted").write_bytes(b"gone tomorrow")
    (rig.path / "quiet" / "below").mkdir()
    (rig.path / "quiet" / "below" / "deleted too").touch()
    rest()
    rig.dump(0)
    (rig.path / "quiet" / "deleted").unlink()
    (rig.path / "quiet" / "below" / "deleted too").unlink()
    (rig.path / "quiet" / "below").rmdir()
    rest()
    dump = rig.dump(1, inject=moves_ahead(rig.path))
    assert busy_directories(rig)
    assert sorted(path.name for path in (restored(rig, dump) / "quiet").iterdir()) == ["stays"]


def test_a_second_full_dump_keeps_nothing_that_it_does_not_have(rig: Rig) -> None:
    """At level 0 there is no base whose content could stand for what was not found; its numbers alone go on."""
    make_tree(rig.path, "directory")
    (rig.path / "first" / "restless").rename(rig.path / "a" / "restless")
    rest()
    rig.dump(0)
    dump = rig.dump(0, inject=moves_ahead(rig.path))
    assert contents(restored(rig, dump)) <= contents(rig.path)
    assert busy_directories(rig)
    assert_equal(rig, rig.dump(1))
