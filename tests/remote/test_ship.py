"""What is shipped, and the first code that runs on a host, without a host."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import voltool
from voltool.errors import HostError
from voltool.remote import bootstrap, stage
from voltool.remote.ship import (
    AGENT_PACKAGES,
    READER_PACKAGES,
    ShippedAgent,
    build_agent,
    build_reader,
    shipped_files,
)
from voltool.statedir import state_directory


def test_the_same_sources_give_the_same_agent() -> None:
    """Also in another process that finds nothing kept, with other hashes."""
    for build in (build_agent, build_reader):
        build.cache_clear()
        first = build()
        build.cache_clear()
        assert build() == first
    code = "from voltool.remote import ship; ship._kept_agent = lambda: ship.Path('/nowhere'); print(ship.build_agent().digest)"
    others = {
        subprocess.run(
            [sys.executable, "-B", "-c", code],
            check=True, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }  # fmt: skip
    assert others == {build_agent().digest}


def test_a_server_of_the_same_python_compiles_nothing(tmp_path: Path) -> None:
    agent = tmp_path / "agent.pyz"
    agent.write_bytes(build_agent().data)
    code = (
        f"import builtins, sys; sys.path.insert(0, {str(agent)!r})\n"
        "def refuse(*_arguments, **_names): raise AssertionError('compiled')\n"
        "import zipimport; zipimport._compile_source = refuse\n"
        "import voltool.agent.main, voltool.agent.moving.into; print(voltool.agent.main.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.strip().startswith(str(agent)), done.stderr


def test_paramiko_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, voltool.remote.connect; sys.exit('paramiko' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_agents_part_is_shipped() -> None:
    with zipfile.ZipFile(io.BytesIO(build_agent().data)) as archive:
        names = archive.namelist()
    assert "__main__.py" in names
    assert {name.split("/")[1] for name in names if name.count("/") > 1} == {
        "agent", "dumpfile", "tree", "volumes", "wire",
    }  # fmt: skip
    assert not [name for name in names if not name.endswith((".py", ".pyc"))]
    assert {f"{name}c" for name in names if name.endswith(".py")} == {name for name in names if name.endswith(".pyc")}


def test_the_agent_brings_the_binding_of_libfuse_along_with_its_licence(tmp_path: Path) -> None:
    """In a Python that has no site-packages, as servers have it."""
    agent = tmp_path / "agent.pyz"
    agent.write_bytes(build_agent().data)
    with zipfile.ZipFile(agent) as archive:
        assert b"Permission to use, copy, modify, and distribute this software" in archive.read("mfusepy.py")
    code = f"import sys; sys.path.insert(0, {str(agent)!r})\nfrom voltool import fuse; print(fuse.load().__file__)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False, capture_output=True, text=True)
    if done.returncode == 0:
        assert done.stdout.strip() in {str(agent / "mfusepy.py"), str(agent / "mfusepy.pyc")}
    else:  # no libfuse, or no /dev/fuse here
        assert "HostError" in done.stderr


@pytest.mark.parametrize("which", ["agent", "reader"])
def test_every_shipped_module_runs_from_the_file_alone(tmp_path: Path, which: str) -> None:
    """Without site-packages and without this checkout: the standard library must do."""
    agent = tmp_path / "agent.pyz"
    agent.write_bytes(build_agent().data if which == "agent" else build_reader())
    root = Path(voltool.__file__).parent
    modules = [
        ".".join(("voltool", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for path in shipped_files(root, AGENT_PACKAGES if which == "agent" else READER_PACKAGES)
        if path.stem != "__main__"
    ]
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(agent)!r})\n"
        f"for name in {modules!r}: print(importlib.import_module(name).__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], check=False, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert len(modules) > 20
    assert all(line.startswith(str(agent)) for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HOME": "/home/me"},
        {"HOME": "/h", "XDG_STATE_HOME": "/x"},
        {"VOLTOOL_STATE_DIR": "/v/../w"},
        {"VOLTOOL_STATE_DIR": ""},
    ],
)
@pytest.mark.parametrize("uid", [0, 1000])
def test_the_stage_and_the_agent_agree_on_the_state_directory(
    environment: dict[str, str], uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_STATE_HOME", "VOLTOOL_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert stage.state_directory() == state_directory(environment, uid)


def test_the_stage_and_the_command_line_agree_on_the_marker() -> None:
    assert stage.NEED == bootstrap.NEED


@pytest.mark.parametrize("become", [False, True])
@pytest.mark.parametrize("ask", [False, True])
def test_the_command_is_one_line_that_every_shell_reads_alike(become: bool, ask: bool) -> None:
    start = bootstrap.Start(("python3", "/opt/it's here/python"), become, ask)
    arguments = bootstrap.command_line(start, ShippedAgent(b"x", "0" * 64))
    command = bootstrap.shell_command(arguments)
    assert shlex.split(command) == arguments
    assert not re.search(r"[\n!\\]", command)
    assert len(command) < 20_000


@pytest.mark.parametrize(
    ("noise", "complaints", "expected"),
    [
        (b"Welcome\n\nvoltool-bootstrap: no-python /usr/bin/python3 (Python 3.6.8)\n", "", "no python3"),
        (b"\nvoltool-bootstrap: cannot-store /var/lib: Read-only file system\n", "", "cannot be stored"),
        (b"\nvoltool-bootstrap: insecure /var/lib/voltool\n", "", "somebody else"),
        (b"\nvoltool-bootstrap: damaged it\n", "", "could not be started"),
        (b"", "sudo: a password is required", "asks for a password"),
        (b"", "sudo: sorry, you must have a tty\nsudo: a terminal is required to read", "asks for a password"),
        (b"", "me is not in the sudoers file.", "sudo refuses"),
        (b"This account is closed\n", "", "This account is closed"),
        (b"", "", "status 5"),
    ],
)
def test_what_is_said_instead_of_starting(noise: bytes, complaints: str, expected: str) -> None:
    error = bootstrap.failed_start("web", noise, complaints, 5)
    assert isinstance(error, HostError)
    assert expected in str(error)
    assert "web" in error.where
