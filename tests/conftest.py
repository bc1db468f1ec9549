"""What holds for every test: an environment of its own, and skips that CI does not forgive.

Fixtures for throw-away hosts and file systems live in tests/hosts.py and tests/filesystems.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.filesystems import make_filesystem
from voltool.volumes.lock.mounting import leave_namespace

__all__ = ["make_filesystem"]  # fixtures that tests find here without importing them

settings.register_profile(
    "voltool",
    deadline=None,  # a real file system takes what it takes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    print_blob=True,
)
settings.load_profile("voltool")


def pytest_configure() -> None:
    """Each process of a test run mounts in a namespace of its own: a lock looks for its tree in every namespace, and those
    that other tests make at the same time would have copies of its mounts."""
    if os.geteuid() == 0:
        leave_namespace()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if (
            signal.getsignal(number) is signal.SIG_IGN
        ):  # by nohup, or for a job in the background: ours would ignore it too
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


_OURS = ("VOLTOOL_", "XDG_")
_ALSO_OURS = ("SSH_AUTH_SOCK", "SSH_ASKPASS", "TAPE", "RSYNC_RSH", "RSYNC_PROTECT_ARGS", "TAR_OPTIONS")


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOME and all XDG and VOLTOOL variables point into the test's own directory; returns that HOME."""
    for name in list(os.environ):
        if name.startswith(_OURS) or name in _ALSO_OURS:
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".local/state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.setenv("VOLTOOL_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.setenv("TZ", "UTC")
    return home


# ------------------------------------------------------------------------------------------------- no silent skips


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def _unforgiven(reason: object) -> str:
    text = reason[2] if isinstance(reason, tuple) else str(reason)
    return f"{text}\nIn CI nothing is skipped: install the missing part, or mark the test may_skip(reason)."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test has failed, unless it is marked ``may_skip``."""
    report = yield
    if _in_ci() and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("may_skip") is None:
        report.outcome = "failed"
        report.longrepr = _unforgiven(report.longrepr)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI a skipped module has failed."""
    report = yield
    if _in_ci() and report.skipped:
        report.outcome = "failed"
        report.longrepr = _unforgiven(report.longrepr)
    return report
