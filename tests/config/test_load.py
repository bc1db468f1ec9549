"""What a person sees of a configuration: what it means, and which file, key, line and remedy a fault names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltool.config import paths
from voltool.config.lines import find_line, key_lines
from voltool.config.load import load_settings, read_settings
from voltool.config.quantity import parse_bytes
from voltool.config.settings import Settings
from voltool.errors import UsageError
from voltool.statedir import state_directory

FULL = """\
store = "/srv/dumps"   # everything goes there
min_free = 10
codec = "none"
bandwidth = "10M"
nice = 10
idle_io = true
workers = 2

[hosts.hostA]
transport = "openssh"
become = true
python = "/usr/bin/python3.11"
connect_timeout = 5

[hosts."root@10.0.0.1:2222"]
become = false

[volumes.vol1]
excludes = ["*.tmp", "cache/**"]
unstable_ok = ["log/*"]
store = "file:///srv/other"
codec = "lz4"
"""


def read(tmp_path: Path, text: str | bytes) -> Settings:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_settings(str(path))


def test_every_key_is_understood(tmp_path: Path) -> None:
    settings = read(tmp_path, FULL)
    assert (settings.store, settings.min_free, settings.bandwidth) == ("/srv/dumps", 10, 10 << 20)
    assert settings.host("hostA").transport == "openssh"
    assert settings.host("hostA").become is True
    assert settings.host("root@10.0.0.1:2222").connect_timeout == 20
    assert settings.host("unknown").transport == "paramiko"
    assert settings.volume("vol1").unstable_ok == ["log/*"]
    assert settings.volume("other").store is None


def test_everything_is_optional(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Settings() == load_settings({"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "line", "what", "remedy"),
    [
        ("codec = 'lz4'\nstoer = '/x'\n", 2, "unknown key stoer", "did you mean store?"),
        ("# c\n\n[hosts.a]\nbecame = true\n", 4, "unknown key hosts.a.became", "did you mean become?"),
        ("[hosts.a]\n\nbecome = 'yes'\n", 3, "wrong value for hosts.a.become", "correct hosts.a.become"),
        ('[volumes."a b"]\nexcludes = [\n "x",\n 7,\n]\n', 2, 'volumes."a b".excludes', "correct"),
        ("nice = 20\n", 1, "wrong value for nice", "correct nice"),
        ("nice = '5'\n", 1, "wrong value for nice", "correct nice"),
        ("workers = 1\nmin_free = 'five'\nnice = 99\n", 2, "wrong value for min_free", "correct"),
        ("a = 'x'\nbandwidth = 'fast'\n", 1, "unknown key a", "one of store"),
        ("bandwidth = 'fast'\n", 1, "wrong value for bandwidth", "correct"),
        ("store = 'relative'\n", 1, "wrong value for store", "correct"),
        ("x = '''\n[hosts]\nnice = 1\n'''\n", 1, "unknown key x", "one of"),
        ("hosts = { a = { become = 1 } }\n", 1, "hosts.a.become", "correct"),
        ("codec = \n", 1, "not valid TOML", "that line"),
        ("nice = 1\n[hosts.a\n", 2, "not valid TOML", "that line"),
        ("nice = 1\nnice = 2\n", 2, "not valid TOML", "that line"),
        ("[volumes.v]\ncodec = 'gzip'\n", 2, "wrong value for volumes.v.codec", "correct"),
    ],
)
def test_a_fault_names_file_key_line_and_remedy(tmp_path: Path, text: str, line: int, what: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    error = caught.value
    assert error.where == f"{tmp_path}/config.toml, line {line}"
    assert what in error.what
    assert remedy in error.remedy
    assert error.exit_code == 2


def test_what_is_no_text_and_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        read(tmp_path, b"store = '\xff'\n")
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings({}, str(tmp_path / "missing.toml"))
    with pytest.raises(UsageError, match="cannot be read"):
        load_settings({"VOLTOOL_CONFIG": str(tmp_path / "missing.toml")})


def test_the_order_of_the_files(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    assert paths.config_candidates(environment) == [
        f"{tmp_path}/.config/voltool/config.toml",
        "/etc/voltool/config.toml",
    ]
    home = tmp_path / ".config/voltool/config.toml"
    home.parent.mkdir(parents=True)
    home.write_text("nice = 1")
    assert load_settings(environment).nice == 1
    other = tmp_path / "other.toml"
    other.write_text("nice = 2")
    assert load_settings({**environment, "VOLTOOL_CONFIG": str(other)}).nice == 2
    assert load_settings({**environment, "VOLTOOL_CONFIG": str(other)}, str(home)).nice == 1


def test_where_the_state_lies() -> None:
    assert state_directory({"VOLTOOL_STATE_DIR": "/x/../y"}, 0) == "/y"
    assert state_directory({"HOME": "/root", "XDG_STATE_HOME": "/s"}, 0) == "/var/lib/voltool"
    assert state_directory({"HOME": "/home/a", "XDG_STATE_HOME": "/s"}, 1000) == "/s/voltool"
    assert state_directory({"HOME": "/home/a"}, 1000) == "/home/a/.local/state/voltool"


def test_lines_are_found_in_every_kind_of_toml() -> None:
    text = 'a.b = 1\n"c d" = """\nx = 1\n"""\n[t]\nlist = [ # x = 1\n  "y = 2",\n  { z = 3 },\n]\nlast = 1\n[[array]]\nk = 1\n'
    lines = key_lines(text)
    assert lines["a",] == lines["a", "b"] == 1
    assert lines["c d",] == 2
    assert ("x",) not in lines
    assert (lines["t",], lines["t", "list"], lines["t", "last"]) == (5, 6, 10)
    assert lines["array", "k"] == 12
    assert find_line(text, ("t", "nowhere")) == 5


@given(st.text(alphabet="ab.=[]{}\"'\n# ,1", max_size=60))
def test_the_line_finder_ends_on_any_text(text: str) -> None:
    lines = key_lines(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("512", 512), ("1K", 1024), ("1.5 MiB", 1572864), ("10M/s", 10 << 20), ("2g", 2 << 30)],
)
def test_amounts(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "fast", "-1", "1X", "1 2"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError):
        parse_bytes(text)
