"""What a pattern of `find` matches, and that what is looked for quickly is in whatever matches."""

from __future__ import annotations

import random
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.browse.patterns import parse_pattern
from voltool.cli.quoting import quoted
from voltool.errors import UsageError


def matches(pattern: str, path: bytes, *, ignore_case: bool = False) -> bool:
    parsed = parse_pattern(pattern, ignore_case=ignore_case)
    name = path.split(b"/")[-1]
    found = parsed.matches_name(name) and parsed.matches_path(path)
    assert not found or parsed.literal in (name.lower() if ignore_case else name)
    return found


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("conf", ["nginx.conf", "a/conf.d", "x/my_config"], ["conf/a", "CONF"]),
        ("*.conf", ["a.conf", "x/y/.conf"], ["a.confx", "x.conf/y", "a/conf"]),
        ("[Cc]onf?", ["conf1", "x/Conf2"], ["conf", "xconf1", "conf12"]),
        ("[!a]", ["b", "x/c"], ["a", "bb"]),
        ("[]]", ["]"], ["[", "a"]),
        ("[", ["a[b"], ["ab"]),
        ("[ab", ["x[ab"], ["a"]),
        ("[]^\\-]*", ["^x", "-", "\\", "]"], ["x"]),
        ("a\\*b", ["a*b", "xa*bx"], ["aab"]),
        ("a\\[*", ["a[", "x/a[b"], ["ab"]),
        ("etc/ng", ["etc/nginx", "x/etc/ng", "xetc/ng"], ["etc/x/ng", "etc/nginx/x", "ng"]),
        ("etc//ng/", ["etc/nginx"], ["ng"]),
        ("/etc/passwd", ["etc/passwd"], ["x/etc/passwd", "etc/passwd-", "etc/passwd/x"]),
        ("etc/*.conf", ["etc/a.conf", "x/etc/a.conf"], ["etc/x/a.conf", "xetc/a.conf"]),
        ("/etc/*", ["etc/a"], ["x/etc/a", "etc/a/b", "etc"]),
        ("/etc/**/*.conf", ["etc/a.conf", "etc/x/y/a.conf"], ["x/etc/a.conf", "etc/conf"]),
        ("a/**/b/**/c", ["a/b/c", "z/a/1/2/b/3/c"], ["a/c", "b/c", "a/b/cc"]),
        ("/a/**", ["a/b", "a/b/c"], ["b/a/c", "ab"]),
        ("**/x", ["x", "a/b/x"], ["xx"]),
        ("*", ["a", "a/b", "\n", "\udcff"], []),
        ("?", ["é", "x/\udcff"], ["ab", "éé"]),
        ("\udcff", ["a\udcffb"], ["ab"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    for path in yes:
        assert matches(pattern, path.encode("utf-8", "surrogateescape")), path
    for path in no:
        assert not matches(pattern, path.encode("utf-8", "surrogateescape")), path


def test_ignoring_case() -> None:
    assert matches("ReadMe", b"x/README.md", ignore_case=True)
    assert matches("*.ODS", b"a.ods", ignore_case=True)
    assert matches("/ETC/*", b"etc/x", ignore_case=True)
    assert matches("GRÜN*", "grün.txt".encode(), ignore_case=True)
    assert not matches("ReadMe", b"README")


@pytest.mark.parametrize("pattern", ["", "/", "//", "a\0b", "[z-a]"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(UsageError):
        parse_pattern(pattern)


@given(st.text("ab*?[]!\\/.^-%_é", min_size=1, max_size=12), st.text("ab[]\\!^-.%_é", min_size=1, max_size=6))
def test_any_pattern_means_something_and_is_found_quickly(pattern: str, name: str) -> None:
    try:
        matches(pattern, name.encode())
        matches(pattern, name.encode(), ignore_case=True)
    except UsageError as error:
        assert error.remedy  # noqa: PT017 - either is fine, nothing else is


def test_a_shell_takes_every_quoted_name_back() -> None:
    rng = random.Random(7)
    names = [
        bytes(rng.choice(b" '\"\\$`!\n\x1b\xffa1\xc3\xa9-") for _ in range(rng.randrange(1, 9))) for _ in range(300)
    ]
    words = [quoted(name) for name in names]
    assert all(word.isprintable() for word in words)
    done = subprocess.run(["bash", "-c", "printf '%s\\0' " + " ".join(words)], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == names
