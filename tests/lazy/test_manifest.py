"""A manifest that comes: found again name by name, and refused where it is not what its state's id vouches for, or no tree."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.core.harness import Rig
from tests.lazy.rig import header
from voltool.agent.lazy.arriving import ManifestArrival, open_index
from voltool.agent.lazy.index import TreeIndex, next_data, next_zero
from voltool.dumpfile import format as fmt
from voltool.errors import IntegrityError
from voltool.model import ROOT_OBJECT
from voltool.tree.apply.held import HeldTree
from voltool.tree.apply.staging import StagingKey, open_staging
from voltool.tree.manifest import manifest_stream, state_manifest
from voltool.tree.state import StateKeeper

MIB = 1 << 20


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldTree]:
    staging = open_staging(StagingKey(os.fsencode(tmp_path / "next"), "0" * 32, "", ""), into_existing=False)
    yield HeldTree(staging)
    staging.close()


def arrive(held: HeldTree, stream: Iterable[bytes], state_id: str) -> TreeIndex:
    with contextlib.closing(ManifestArrival(held)) as arrival:
        for data in stream:
            arrival.feed(data)
        arrival.finish(state_id)
    index = open_index(held, state_id)
    assert index is not None
    return index


def record(number: int, mode: int, size: int = 0, content: bytes = fmt.NO_HASH) -> bytes:
    return fmt.encode_object(fmt.ObjectRecord(number, mode, 0, 0, size, 0, 0, 0, 0, 0, content, b"", b""))


def made_up(
    objects: list[bytes], entries: list[bytes], chunks: list[bytes] | None = None
) -> tuple[Iterator[bytes], str]:
    return manifest_stream(header("0" * 32), objects, entries, chunks or []), fmt.state_id(objects, entries)


ROOT = record(ROOT_OBJECT, 0o40755)


def test_everything_is_found(tmp_path: Path, held: HeldTree) -> None:
    volume = tmp_path / "volume"
    (volume / "a" / "below").mkdir(parents=True)
    for number in range(700):
        (volume / "a" / f"{number:x}").write_bytes(b"x" * number)
    with open(volume / "a" / "below" / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(5 * MIB)
        file.write(b"x" * (2 * MIB) + b"end")
    os.link(volume / "a" / "below" / "sparse", volume / "second")
    with Rig(tmp_path / "rig", volume) as rig:
        state_id = rig.dump().totals.state_id
        keeper = StateKeeper(os.fsencode(rig.area / "states"))
        state = keeper.open(state_id)
        assert state is not None
        with contextlib.closing(state):
            index = arrive(held, state_manifest(header(rig.volume.uuid), state, keeper), state_id)
    above = index.child(index.root, b"a")
    assert dict(index.children(above)).keys() == {os.fsencode(name) for name in os.listdir(volume / "a")}
    for number in range(0, 700, 13):
        found = index.child(above, b"%x" % number)
        assert (index.size(found), index.path(found)) == (number, b"a/%x" % number)
    assert index.child(above, b"missing") == -1
    sparse = index.child(index.root, b"second")
    assert (index.links(sparse), sorted(name.name for name in index.names(sparse))) == (2, [b"second", b"sparse"])
    assert [index.chunk(sparse, at) is not None for at in range(8)] == [True, *[False] * 4, *[True] * 3]
    assert (next_data(index, sparse, 1), next_data(index, sparse, 8), next_zero(index, sparse, 0)) == (5, None, 1)
    assert open_index(held, "0" * 64) is None


def test_another_state_is_refused(held: HeldTree) -> None:
    stream, _state_id = made_up([ROOT], [])
    with pytest.raises(IntegrityError, match="not that of the volume"):
        arrive(held, stream, "1" * 64)
    assert open_index(held, "1" * 64) is None


@pytest.mark.parametrize(
    ("objects", "entries"),
    [
        ([record(2, 0o100644)], [fmt.encode_entry(1, b"file", 2)]),
        ([ROOT, record(2, 0o100644)], []),
        ([ROOT], [fmt.encode_entry(1, b"file", 2)]),
        ([ROOT, record(2, 0o40755)], [fmt.encode_entry(2, b"itself", 2)]),
        ([ROOT, record(2, 0o40755)], [fmt.encode_entry(1, b"a", 2), fmt.encode_entry(1, b"b", 2)]),
        ([ROOT, record(2, 0o40755), record(3, 0o40755)], [fmt.encode_entry(2, b"a", 3), fmt.encode_entry(3, b"b", 2)]),
    ],
    ids=["no root", "no name", "no object", "in itself", "two names", "in a circle"],
)
def test_what_is_no_tree_is_refused(held: HeldTree, objects: list[bytes], entries: list[bytes]) -> None:
    stream, state_id = made_up(objects, entries)
    with pytest.raises(IntegrityError):
        arrive(held, stream, state_id)
    assert open_index(held, state_id) is None


def test_hashes_of_chunks_that_the_state_does_not_vouch_for_are_refused(held: HeldTree) -> None:
    right = [b"1" * 32, b"2" * 32, b"3" * 32]
    content = fmt.content_hash(3 * MIB, [(value, 1) for value in right])
    objects, entries = [ROOT, record(2, 0o100644, 3 * MIB, content)], [fmt.encode_entry(1, b"file", 2)]
    for hashes in ([b"1" * 32, b"9" * 32, b"3" * 32], right[:2]):
        stream, state_id = made_up(objects, entries, [fmt.encode_chunk_run(2, 0, hashes)])
        with pytest.raises(IntegrityError, match="damaged"):
            arrive(held, stream, state_id)
        assert open_index(held, state_id) is None
    stream, state_id = made_up(objects, entries, [fmt.encode_chunk_run(2, 0, right)])
    assert arrive(held, stream, state_id).chunks == 3
