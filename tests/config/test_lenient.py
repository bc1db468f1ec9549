"""A configuration with faults: what is wrong is named and left out, the rest holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from voltool.config.lenient import LenientSettings, load_leniently
from voltool.config.load import load_settings
from voltool.errors import UsageError

GOOD = """
store = "/srv/dumps"
schedule = "weekly"
parallel = 3

[hosts.web1]
become = true

[volumes.alpha]
schedule = "monthly"

[volumes.beta]
store = "/srv/other"

[volumes.gamma.keep]
daily = 7
"""


def load(tmp_path: Path, text: str) -> LenientSettings:
    (tmp_path / "config.toml").write_text(text)
    return load_leniently({}, str(tmp_path / "config.toml"))


def test_without_faults_it_is_the_same(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    assert found.settings == load_settings({}, str(tmp_path / "config.toml"))
    assert (found.volumes, found.hosts, found.general) == ({}, {}, ())
    assert load_leniently({}).settings.schedule == ""


@pytest.mark.parametrize(
    ("old", "new", "volumes"),
    [
        ('store = "/srv/other"', "store = 5", {"beta"}),
        ('store = "/srv/other"', 'store = "ftp://x"', {"beta"}),
        ('store = "/srv/other"', 'stor = "/srv/other"', {"beta"}),
        ('store = "/srv/other"', 'store = "/srv/other', {"beta"}),
        ("daily = 7", "daily = -1", {"gamma"}),
        ("daily = 7", "daily = = 7", {"gamma"}),
        ("[volumes.beta]", "[volumes.beta", {"beta"}),
        ('schedule = "monthly"', 'schedule = "monthly', {"alpha"}),
        ('schedule = "monthly"', "schedule = 0325", {"alpha"}),
        ('schedule = "monthly"\n\n[volumes.beta]', 'schedule = [1\n\n[volumes.beta]\nnice = """', {"alpha", "beta"}),
    ],
)
def test_a_fault_of_one_volume_leaves_out_that_volume(tmp_path: Path, old: str, new: str, volumes: set[str]) -> None:
    assert old in GOOD
    found = load(tmp_path, GOOD.replace(old, new))
    assert set(found.volumes) >= volumes
    assert set(found.settings.volumes) == {"alpha", "beta", "gamma"} - set(found.volumes)
    assert found.settings.store == "/srv/dumps"
    assert found.settings.parallel == 3
    for error in found.volumes.values():
        assert "config.toml, line " in error.where
    with pytest.raises(UsageError):
        load_settings({}, str(tmp_path / "config.toml"))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("parallel = 3", "parallel = 0", "parallel"),
        ("parallel = 3", "parallell = 3", "parallell"),
        ("parallel = 3", 'timezone = 3\nparallel = "x"', "timezone"),
        ("[hosts.web1]", "[notify]\non_failure = 'mail'\n[hosts.web1]", "notify"),
    ],
)
def test_what_is_dispensable_is_left_out(tmp_path: Path, old: str, new: str, key: str) -> None:
    found = load(tmp_path, GOOD.replace(old, new))
    assert key in " ".join(error.what for error in found.general)
    assert set(found.settings.volumes) == {"alpha", "beta", "gamma"}


def test_a_host_with_a_fault(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD.replace("become = true", 'become = "yes"'))
    assert set(found.hosts) == {"web1"}
    assert set(found.settings.volumes) == {"alpha", "beta", "gamma"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('store = "/srv/dumps"', "store = 7"),
        ('store = "/srv/dumps"', 'stores = "/srv/dumps"'),
        ('store = "/srv/dumps"', 'store = "/srv/dumps'),
        ('schedule = "weekly"', "schedule = 0325476"),
        ('schedule = "weekly"', 'shedule = "weekly"'),
        ('schedule = "weekly"', "volumes = 3"),
        ('schedule = "weekly"', "hosts = []"),
    ],
)
def test_what_decides_where_dumps_go_is_never_guessed(tmp_path: Path, old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError, match="the configuration"):
        load(tmp_path, GOOD.replace(old, new))
