"""Whether what `diff` tells leads from one tree to the other: the old tree, with everything told done to it, is the new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from voltool.browse.diff_records import Outcome

T = TypeVar("T")


def check_diff(told: Iterable[Outcome], old: Mapping[bytes, T], new: Mapping[bytes, T]) -> None:
    """Fail unless it does. The trees are what can be seen at each path; directories without their times."""
    outcomes = list(told)
    keys = [(outcome.path.split(b"/"), outcome.kind) for outcome in outcomes]
    assert [path for path, _kind in keys] == sorted(path for path, _kind in keys)
    assert len({(tuple(path), kind) for path, kind in keys}) == len(keys)
    removed = {outcome.path for outcome in outcomes if outcome.kind == "removed"}
    renamed = {outcome.old_path: outcome for outcome in outcomes if outcome.kind == "renamed"}
    tree: dict[bytes, T] = {}
    moved: dict[bytes, bytes | None] = {b"": b""}
    for path in sorted(old, key=lambda path: path.count(b"/")):
        parent, _slash, name = path.rpartition(b"/")
        if path in renamed:
            moved[path] = renamed[path].path
        elif path in removed:
            moved[path] = None
        else:
            above = moved[parent]
            assert above is not None, f"{path!r}: what happened to it is not told"
            moved[path] = above + b"/" + name if above else name
        place = moved[path]
        if place is not None:
            assert place not in tree
            tree[place] = old[path]
    for outcome in outcomes:
        if outcome.kind == "added":
            assert outcome.path not in tree
            tree[outcome.path] = new[outcome.path]
        elif outcome.kind == "changed" or outcome.changes:
            assert outcome.changes
            if outcome.path != b".":
                assert outcome.path in tree
                tree[outcome.path] = new[outcome.path]
        elif outcome.kind == "removed":
            assert outcome.path in old
    assert tree == dict(new)
