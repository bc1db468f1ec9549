"""Whatever happens to a tree, whenever it is dumped at whatever level: `find` says of each name what each dump
holds, and `diff` what happened between two."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.browse.diff_truth import check_diff
from tests.browse.truth import Tree, check, contents, walk
from tests.core.harness import Rig
from tests.core.operations import NAMES, Operation, apply, operations
from voltool.browse.diff import diff
from voltool.browse.find import Query, find
from voltool.browse.learner import NameLearner
from voltool.browse.patterns import parse_pattern
from voltool.model import StoredDump
from voltool.policy.chain import chain_ends

EXAMPLES = int(os.environ.get("VOLTOOL_EXAMPLES", "8")) // 2


@dataclass(frozen=True)
class DumpNow:
    """Dump at ``level``, and let the index learn it at once or find it later. ``forget``: the host has lost its home stamps."""

    level: int
    learn: bool
    forget: bool


@dataclass(frozen=True)
class Prune:
    """Drop one of the dumps that no other rests on."""

    which: int


STEPS = st.lists(
    st.one_of(
        st.lists(operations(), min_size=1, max_size=8),
        st.builds(DumpNow, st.integers(0, 3), st.booleans(), st.integers(0, 5).map(lambda n: n == 5)),
        st.builds(Prune, st.integers(0, 9)),
    ),
    min_size=4,
    max_size=14,
)


class History:
    """A volume, its dumps, and what each of them holds."""

    def __init__(self, ground: Path, rig: Rig) -> None:
        self.rig = rig
        self.learner = NameLearner(rig.world, str(ground / "names.sqlite"), rig.catalog.path)
        self.trees: dict[str, Tree] = {}
        self.contents: dict[str, dict[bytes, bytes]] = {}

    def take(self, step: list[Operation] | DumpNow | Prune) -> None:
        if isinstance(step, DumpNow):
            if step.forget:
                self.rig.forget_states()
            dump = self.rig.dump(step.level)
            self.trees[dump.header.dump_id] = walk(os.fsencode(self.rig.path))
            self.contents[dump.header.dump_id] = contents(os.fsencode(self.rig.path))
            if step.learn:
                self.learner(dump)
        elif isinstance(step, Prune):
            self._prune(step.which)
        else:
            for operation in step:
                apply(os.fsencode(self.rig.path), operation)

    def dumps(self) -> list[StoredDump]:
        return self.rig.catalog.dumps()

    def _prune(self, which: int) -> None:
        ends = chain_ends(self.dumps())
        if ends:
            end = ends[which % len(ends)]
            self.rig.catalog.remove_dump(end.header.dump_id)
            self.rig.world.stores.open(end.store).remove(end.file)

    def check(self, pattern: str, wanted: bytes | None = None) -> None:
        """Compare what ``pattern`` finds with what has ``wanted`` in its last name (None: everything)."""
        ids = [dump.header.dump_id for dump in self.dumps()]
        trees = [
            {
                path: seen
                for path, seen in self.trees[dump_id].items()
                if wanted is None or wanted in path.split(b"/")[-1]
            }
            for dump_id in ids
        ]
        query = Query(parse_pattern(pattern), limit=0)
        check(list(find(self.rig.world, self.learner, query)), ids, trees)

    def check_diff(self, old: StoredDump, new: StoredDump) -> None:
        """Compare what `diff` tells with the trees."""
        before, after = [
            {
                path: (seen, self.contents[dump.header.dump_id].get(path))
                for path, seen in self.trees[dump.header.dump_id].items()
            }
            for dump in (old, new)
        ]
        check_diff(diff(self.rig.world, old, new), before, after)


@settings(
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(steps=STEPS)
def test_find_agrees_with_every_state_of_any_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[Operation] | DumpNow | Prune]
) -> None:
    ground = tmp_path_factory.mktemp("find")
    (ground / "v" / "vol").mkdir(parents=True)
    with Rig(ground / "rig", ground / "v" / "vol") as rig:
        history = History(ground, rig)
        for step in [*steps, DumpNow(1, learn=False, forget=False)]:
            history.take(step)
        history.check("*")
        for name in NAMES:
            history.check(os.fsdecode(name), name)
        assert not [notice for notice in rig.reporter.notices() if "search" in notice or "damaged" in notice]
        history.learner.close()
        for old, new in [*pairwise(history.dumps()), (history.dumps()[-1], history.dumps()[0])]:
            history.check_diff(old, new)
