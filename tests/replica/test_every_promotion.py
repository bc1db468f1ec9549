"""Every crash of a promotion, of two of them, and of hearing of them; enumerated.

What is promised: never two homes with the same epoch and token (looked at after every single operation); in the end, when all
hosts are up and have been told, one home, that of the highest epoch; and every acknowledged write is in it or kept aside and
named.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.replica import homes
from tests.replica.homes import InvariantError, Site, make_site, state
from voltool.agent.replica import promoting
from voltool.wire import replicas

Command = Callable[..., str]
PARTIES = ("cli", "a", "b", "c")


def crashed(site: Site, command: Callable[[Site, int, str], str]) -> Iterator[Site]:
    """The site after ``command`` was cut off at each of its points by each party's death; and after it was not."""
    at = 0
    while True:
        finished = False
        for party in PARTIES:
            after = copy.deepcopy(site)
            command(after, at, party)
            finished = after.hosts.points <= at
            yield after
        if finished:
            return
        at += 1


def distinct(sites: Iterator[Site]) -> list[Site]:
    """One of each state."""
    found: dict[tuple[object, ...], Site] = {}
    for site in sites:
        found.setdefault(state(site), site)
    return list(found.values())


def homes_of(site: Site) -> list[str]:
    return [host for host, disk in site.hosts.disks.items() if disk.home is not None and disk.move is None]


def end(site: Site) -> None:
    """All hosts are up: contact alone settles it, or tells of a split, which the user ends."""
    site = copy.deepcopy(site)
    site.hosts.down = set()
    before = max(disk.home.epoch.number for disk in site.hosts.disks.values() if disk.home is not None)
    for administrator in (0, 1, 0, 1):
        assert site.settle(administrator, also=("a", "b", "c")) == "done"
    left = homes_of(site)
    if len(left) > 1:
        for host in left:
            disk = site.hosts.disks[host]
            assert disk.split is not None
            assert not disk.writable
            assert disk.home is not None
            assert disk.home.epoch.number == before
        assert site.promote(left[0], force=False) == "refused"
        assert site.promote(left[-1], force=True) == "done"
        assert site.settle(1) == "done"
        assert homes_of(site) == left[-1:]
    else:
        finish(site, left)
    check(site)


def finish(site: Site, left: list[str]) -> None:
    """A promotion that was cut off after its commit is finished by the same command."""
    assert len(left) == 1
    disk = site.hosts.disks[left[0]]
    if not disk.opened:
        site.promote(left[0], force=True)
    assert disk.opened
    assert homes_of(site) == left


def check(site: Site) -> None:
    """Nothing that was acknowledged is lost, and both administrators know the home."""
    (host,) = homes_of(site)
    home = site.hosts.disks[host]
    assert home.tree is not None
    assert home.writable
    kept = set(home.tree)
    for disk in site.hosts.disks.values():
        if disk.copy is not None:
            assert disk.copy <= disk.aside | home.tree
            kept |= disk.copy
    if not site.hosts.written <= kept:
        raise InvariantError("an acknowledged write is lost")
    for catalog in site.catalogs:
        assert catalog.known.host == host
        assert [row for row in catalog.rows.values() if row.role == "former"] == []


def first(site: Site, at: int, party: str) -> str:
    return site.promote("b", kill_at=at, kill=party)


def explore(down: str) -> int:
    """One promotion by force, cut off everywhere; then a second command, cut off everywhere."""
    tried = 0
    seconds: list[Callable[[Site, int, str], str]] = [
        first,
        lambda site, at, party: site.promote("c", 1, kill_at=at, kill=party),
        lambda site, at, party: site.settle(0, kill_at=at, kill=party),
    ]
    for once in distinct(crashed(make_site(down=down), first)):
        end(once)
        for second in seconds:
            for twice in distinct(crashed(once, second)):
                end(twice)
                tried += 1
    return tried


@pytest.mark.parametrize("down", ["", "a"], ids=["the old home is reached", "the old home is down"])
def test_every_crash_of_two_promotions(capsys: pytest.CaptureFixture[str], down: str) -> None:
    tried = explore(down)
    with capsys.disabled():
        sys.stdout.write(f" [{tried} states after crashes of two promotions gone on from] ")
    assert tried > 100


def two_administrators() -> Site:
    """Each has promoted another replica, and cannot reach the other's."""
    site = make_site(down="a")
    assert site.promote("b") == "done"
    site.hosts.down = {"a", "b"}
    assert site.promote("c", 1) == "done"
    return site


def test_two_promotions_are_a_split_and_every_crash_of_its_end() -> None:
    site = two_administrators()
    numbers = {disk.home.epoch.number for disk in site.hosts.disks.values() if disk.home is not None}
    assert numbers == {1, 2}
    site.hosts.down = set()
    for told in distinct(crashed(site, lambda site, at, party: site.settle(0, also=("c",), kill_at=at, kill=party))):
        end(told)
    site.settle(0, also=("c",))
    assert site.settle(1) == "done"
    for chosen in distinct(crashed(site, lambda site, at, party: site.promote("c", 0, kill_at=at, kill=party))):
        end(chosen)


def test_one_administrator_makes_no_split() -> None:
    site = make_site(down="a")
    assert site.promote("b") == "done"
    site.hosts.down = {"a", "b"}
    assert site.promote("c") == "done"
    home = site.hosts.disks["c"].home
    assert home is not None
    assert home.epoch.number == 3
    end(site)


def test_without_force_only_where_nobody_can_be_the_home() -> None:
    site = make_site()
    assert site.promote("b", force=False) == "refused"
    site.hosts.down = {"a"}
    assert site.promote("b", force=False) == "refused"
    assert [row.role for row in site.catalogs[0].rows.values()] == ["replica", "replica"]
    site.hosts.down = set()
    site.hosts.disks["a"] = homes.Disk()
    assert site.promote("b", force=False) == "done"
    assert homes_of(site) == ["b"]


# ------------------------------------------------------------------ the exploration finds it when a cure is taken out


def test_it_notices_an_epoch_that_is_not_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "judge_epoch", lambda _own, _heard: replicas.MINE)
    with pytest.raises((InvariantError, AssertionError)):
        explore("a")


def test_it_notices_writes_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = promoting.Promoting._begin

    def early(self: promoting.Promoting, *arguments: object) -> object:
        record = real(self, *arguments)  # type: ignore[arg-type]
        self._ground.open(record)
        return record

    monkeypatch.setattr(promoting.Promoting, "_begin", early)
    with pytest.raises((InvariantError, AssertionError)):
        explore("a")
