"""What cannot be asked of `voltool move` together is refused before any host is asked, with what would do instead."""

from __future__ import annotations

import pytest

from tests.catalog.samples import make_volume
from tests.cli.fakes import Console


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("mail hostB --lazy --path relay", "a lazy move needs a direct path"),
        ("mail hostB --lazy --path relay --dry-run", "a lazy move needs a direct path"),
        ("--resume mail --lazy", "--lazy goes with a move that begins"),
        ("mail --status --lazy", "--lazy goes with a move that begins"),
        ("--abort mail --dry-run", "--dry-run plans a move that begins"),
        ("--resume mail --dry-run", "--dry-run plans a move that begins"),
        ("mail --status --fill-from /x", "--fill-from goes with --resume"),
    ],
)
def test_it_is_refused(voltool: Console, words: str, what: str) -> None:
    voltool.add_volume(make_volume("mail"))
    voltool.hosts.dead |= {"hostA", "hostB"}
    done = voltool("move", *words.split())
    assert (done.code, what in done.err, "Try: " in done.err or "try" in done.err) == (2, True, True), done.err
