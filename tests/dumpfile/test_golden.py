"""The golden dumps: bytes that were written once. make_golden.py says how, the text above each dump what must come of it."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tests.dumpfile import make_golden, model
from voltool.dumpfile import format as fmt
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.frames import FrameDecoder
from voltool.dumpfile.merge import Merge
from voltool.dumpfile.verify import verify_chain
from voltool.errors import VoltoolError

#: ``1/level0``: the version, and what it is.
ALL = sorted(
    str(path.relative_to(make_golden.GOLDEN).with_suffix(""))
    for path in make_golden.GOLDEN.glob("*/*" + make_golden.SUFFIX)
)
NOW = str(fmt.FORMAT_VERSION)
NAMES = [path.partition("/")[2] for path in ALL if path.startswith(NOW + "/")]
READ_ONLY = {"lz4", "zlib"}


@dataclasses.dataclass(frozen=True)
class Golden:
    """A golden file, taken apart."""

    fields: dict[str, str]
    entries: list[str]
    data: bytes


def load(name: str) -> Golden:
    text, data = (make_golden.GOLDEN / (name + make_golden.SUFFIX)).read_bytes().split(b"\n\n", 1)
    title, *lines = text.decode().splitlines()
    assert title == "voltool golden dump"
    pairs = [line.split(": ", 1) for line in lines]
    entries = [value for key, value in pairs if key == "entry"]
    return Golden({key: value for key, value in pairs if key != "entry"}, entries, data)


def dumps_of(golden: Golden, version: str) -> list[bytes]:
    bases = [load(f"{version}/{golden.fields['base']}").data] if "base" in golden.fields else []
    return [*bases, golden.data]


def read(dumps: list[bytes]) -> tuple[Chain, bytes]:
    """Everything that verify and restore check."""
    chain = Chain([model.open_dump(data, f"dump {at}") for at, data in enumerate(dumps)])
    verify_chain(chain)
    return chain, b"".join(Merge(chain).stream())


@pytest.mark.parametrize("name", ALL)
def test_it_comes_to_what_is_written_above_it(name: str) -> None:
    golden = load(name)
    fields = golden.fields
    dumps = dumps_of(golden, name.partition("/")[0])
    if fields["expect"] != "whole":
        with pytest.raises(VoltoolError, match=re.escape(fields["why"])) as caught:
            read(dumps)
        assert (caught.value.kind, str(caught.value.exit_code)) == (fields["expect"], fields["exit"])
        return
    assert fields["exit"] == "0"
    chain, merged = read(dumps)
    assert chain.totals.state_id == fields["state"]
    assert make_golden.listing(chain) == golden.entries
    again = Chain([model.open_dump(merged, "merged")])
    assert (again.totals.state_id, make_golden.listing(again)) == (fields["state"], golden.entries)
    decoder = FrameDecoder("stream")
    decoder.feed(merged)
    decoder.finish()


def test_the_writer_makes_the_same_bytes_still() -> None:
    made = make_golden.vectors()
    assert sorted([*made, *READ_ONLY]) == NAMES
    for name, vector in made.items():
        assert vector.data == load(f"{NOW}/{name}").data, name


def test_format_0_is_format_1_but_for_its_number() -> None:
    """So one reader reads both, and a chain may begin before the freeze and go on after it."""
    for name in ("level0", "level1"):
        old, new = load(f"0/{name}").data, load(f"1/{name}").data
        assert (old[8:10], new[8:10]) == (b"\0\0", b"\0\1")
        assert (old[:8], old[10:24], old[28:]) == (new[:8], new[10:24], new[28:])
    wanted = load("1/level1")
    chain, merged = read([load("0/level0").data, wanted.data])
    assert (chain.totals.state_id, make_golden.listing(chain)) == (wanted.fields["state"], wanted.entries)
    assert merged[8:10] == b"\0\1"


def test_they_are_small() -> None:
    assert max(path.stat().st_size for path in make_golden.GOLDEN.rglob("*" + make_golden.SUFFIX)) <= 8192
