"""What a person reads on a terminal while a volume moves: the steps done and to come, the lock, the question, an interruption."""

from __future__ import annotations

from pathlib import Path

from tests.hosts import VOLTOOL
from tests.jobs.test_move import Ground, made
from tests.terminal import OnTerminal
from voltool.catalog.sqlite import SqliteCatalog
from voltool.config.paths import catalog_path
from voltool.policy.moves import DONE, STOPPED, UNDONE

AFTER_THE_ROUNDS = ["lock", "last increment", "prepare", "switch", "publish", "settle"]


def on_terminal(ground: Ground, *words: str) -> OnTerminal:
    return OnTerminal([str(VOLTOOL), *words], ground.site.environment)


def move(ground: Ground, *options: str) -> OnTerminal:
    return on_terminal(ground, "move", "vol", f"hostb:{ground.target}", *options)


def below(terminal: OnTerminal, what: str) -> list[list[str]]:
    """What stood below the line with ``what``, whenever it was on the screen."""
    found = []
    for text in terminal.screen.seen:
        lines = [line.strip() for line in text.splitlines()]
        at = next((number for number, line in enumerate(lines) if line.startswith(what)), None)
        if at is not None:
            found.append(lines[at + 1 :])
    return found


def is_undone(ground: Ground) -> bool:
    return "no move is under way" in ground.site.voltool("move", "--status", "vol").stdout and ground.mounts() == []


def test_a_move_on_a_terminal(tmp_path: Path) -> None:
    with made(tmp_path, "ext4", "xfs", files=100) as ground:
        _interrupted(ground)
        _hung_up(ground)
        _asked(ground, tmp_path / "flag")
        (tmp_path / "flag").touch()
        _done(ground)
        _remembered(ground)


def _interrupted(ground: Ground) -> None:
    """Ctrl-C, typed where the bar is: the terminal's ^C does not stay, and the last lines say how it ended."""
    with move(ground, "--bandwidth", "500k") as terminal:
        terminal.read_until(lambda text: "%|" in text and "\u25b8 copy" in text)
        terminal.type("\x03")
        assert terminal.wait() == 130
    lines = terminal.screen.text().splitlines()
    assert lines[0] == "vol: move"
    assert lines[1].startswith("  \u2717 copy")
    assert lines[1].endswith("given up")
    assert lines[2:] == [
        "voltool: warning: vol: interrupted; the move is being undone",
        "voltool: interrupted",
        "  why:   by SIGINT",
        "  try:   nothing: the move is undone, vol is where it was",
    ]
    assert is_undone(ground)


def _hung_up(ground: Ground) -> None:
    """The window is closed: nothing can be shown any more, and all is undone nevertheless."""
    with move(ground, "--bandwidth", "500k") as terminal:
        terminal.read_until(lambda text: "%|" in text and "\u25b8 copy" in text)
        terminal.hang_up()
        assert terminal.wait() == 130
    assert is_undone(ground)


def _asked(ground: Ground, flag: Path) -> None:
    """A prediction above --downtime is a question below what was done, without any bar; the lock that a hook ends is undone."""
    hook = f'["sh", "-c", "sleep 0.5; test -e {flag}"]'
    config = flag.with_name("config.toml")
    config.write_text(f"[volumes.vol]\nbefore_online = {hook}\n", encoding="utf-8")
    ground.site.environment["VOLTOOL_CONFIG"] = str(config)
    with move(ground, "--bandwidth", "2M", "--downtime", "0.01") as terminal:
        terminal.read_until(lambda text: "Go on? [y/N]:" in text)
        asked = terminal.screen.text().splitlines()
        terminal.type("y\n")
        assert terminal.wait() == 1
    assert asked[-1].startswith("The volume will be locked for about")
    assert asked[-2].split("no further round: ")[0].strip() == ""
    assert ["catch up", *AFTER_THE_ROUNDS] in below(terminal, "\u25b8 copy")
    ended = terminal.screen.text().splitlines()
    at = next(number for number, line in enumerate(ended) if line.startswith("  \u2717 prepare"))
    assert ended[at + 1].startswith("    the lock was undone after ")
    assert ended[at + 2] == "voltool: the hook before_online failed"


def _done(ground: Ground) -> None:
    with on_terminal(ground, "move", "--resume", "vol", "--yes") as terminal:
        assert terminal.wait() == 0
    preparing = [rows for rows in below(terminal, "\u25b8 prepare") if rows[1:] == AFTER_THE_ROUNDS[3:]]
    assert all(rows[0].startswith("locked for ") and rows[0].endswith(", at the most 1 min 0 s") for rows in preparing)
    assert preparing
    end = terminal.screen.text().splitlines()
    done = [line[4:18].strip() for line in end if line.startswith("  \u2713")]
    assert done[0] == "catch up 1"
    assert done[-6:] == AFTER_THE_ROUNDS
    at = next(number for number, line in enumerate(end) if line.startswith("  \u2713 settle"))
    assert end[at - 1].startswith("    the volume was locked for ")
    assert end[at + 1].startswith("vol: moved to hostb:")


def _remembered(ground: Ground) -> None:
    """The catalog knows how each call ended, for `status` and `report`."""
    catalog = SqliteCatalog(catalog_path(str(ground.site.state)))
    moves = catalog.moves()
    catalog.close()
    assert [move.outcome for move in moves] == [UNDONE, UNDONE, STOPPED, DONE]
    asked, done = moves[2:]
    assert "before_online" in asked.why
    assert (len(asked.locks), asked.locks[0].switched, asked.may_be_nowhere) == (1, False, False)
    assert [step.step for step in done.steps][-6:] == AFTER_THE_ROUNDS
    assert done.locks[0].switched
    assert asked.sent_bytes > 0
