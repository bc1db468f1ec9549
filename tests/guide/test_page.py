"""What the guide's test takes for the same, and what it does not."""

from __future__ import annotations

import pytest

from tests.guide.page import Command, Configuration, Program, difference, sections

PAGE = """\
# Title
## One
Text.
```toml
[volumes.one]
```
```sh
#!/bin/sh
# /etc/one: a program
true
```
```console
# voltool where one
hostA:/srv/one
hostB# ls
a  b
c
```
## Two
"""


def test_a_page_is_taken_apart() -> None:
    assert sections(PAGE) == {
        "One": [
            Configuration("[volumes.one]\n", 5),
            Program("/etc/one", "#!/bin/sh\n# /etc/one: a program\ntrue\n", 8),
            Command("", "voltool where one", ("hostA:/srv/one",), 13),
            Command("hostB", "ls", ("a  b", "c"), 15),
        ],
        "Two": [],
    }


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("vol: 1,035 entries, 40.8 MiB, downtime 0.31 s", "vol: 1 entry, 17 B, downtime 2 min 3 s"),
        ("at /srv/.voltool/89a27f21b03a493e82416fa6fec0f12e/x", "at /srv/.voltool/0123456789abcdef0123456789abcdef/x"),
        ("locked until 2026-11-26 13:12:41 +0000", "locked until 2027-01-02 03:04:05 +0000"),
        ("why:   postgres (pid 7): ...; and more", "why:   postgres (pid 9): /srv; and more"),
        ("...\nend", "one\ntwo\nend"),
        ("...\nend", "end"),
        ("", ""),
    ],
)
def test_what_varies_is_not_compared(page: str, printed: str) -> None:
    assert not difference(page.splitlines(), printed.splitlines())


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("vol: moved to hostB:/srv/vol", "vol: moved to hostA:/srv/vol"),
        ("one", "one\nvoltool: warning: two"),
        ("one\ntwo", "one"),
        ("...\nend", "one\nend\nof it"),
        ("", "something"),
        ("something", ""),
    ],
)
def test_what_does_not_vary_is(page: str, printed: str) -> None:
    assert printed in difference(page.splitlines(), printed.splitlines())
