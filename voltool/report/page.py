"""The report as one page: HTML, style, script and pictures in one file, nothing from any network. Imports jinja2, so late.

Names of volumes, hosts and files are others' input: the template escapes everything, and the page's own policy lets no script
run but the page's.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from voltool import __version__
from voltool.backup.replicas import lag_text, place_of, wrongs
from voltool.config.quantity import amount, duration
from voltool.report.gather import DAYS, FAILED, OK, PARTIAL, Report, VolumeReport
from voltool.report.picture import ChainPicture, chain_picture, curve, move_picture
from voltool.showing import shown

_TEMPLATES = "templates"
#: The curves' sizes in the overview and in the large picture.
_SPARK = (96, 22)
_LARGE = (860, 150)
#: Turns in the strip of a volume.
_STRIP = 30
_BARS = 90


def render(report: Report, hostname: str) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "amount": amount,
        "time": _time,
        "minute": _minute,
        "day": _day,
        "duration": duration,
        "shown": _shown,
        "age": _age(report.made_ns),
    }
    style, script = _file("page.css"), _file("page.js")
    values = {
        "report": report,
        "hostname": hostname,
        "version": __version__,
        "days": DAYS,
        "places": {volume.standing.volume.uuid: number for number, volume in enumerate(report.volumes)},
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "chain": _chain,
        "spark": lambda points: curve([*points[:-1:2], *points[-1:]], *_SPARK),
        "large": lambda points: curve(points, *_LARGE),
        "move_picture": move_picture,
        "state": lambda volume: volume.standing.state,
        "strip": _strip,
        "durations": _durations,
        **_of_replicas(report),
        "total": sum(volume.standing.stored_bytes for volume in report.volumes),
        "dumps": sum(volume.standing.dumps for volume in report.volumes),
        "tallest": max((sum(run.counts) for run in report.runs), default=1) or 1,
    }
    return environment.from_string(_file("page.html")).render(values)


def _of_replicas(report: Report) -> dict[str, Any]:
    return {
        "replicas": [each for volume in report.volumes for each in volume.standing.replicas],
        "place_of": place_of,
        "lag_text": lag_text,
        "wrongs": lambda replica: "; ".join(wrongs(replica)),
    }


def _chain(volume: VolumeReport) -> ChainPicture:
    return chain_picture(volume.dumps, volume.lineage, volume.standing.suspicious or {})


def _strip(volume: VolumeReport) -> dict[str, str]:
    """For each outcome the squares of the last turns that ended so, as one path."""
    paths = {OK: "", PARTIAL: "", FAILED: ""}
    turns = volume.turns[-_STRIP:]
    for number, turn in enumerate(turns, _STRIP - len(turns)):
        paths[turn.outcome] += (
            f"M{number * 4} {0 if turn.outcome == FAILED else 3}h3v{11 if turn.outcome == FAILED else 8}h-3z"
        )
    return {outcome: path for outcome, path in paths.items() if path}


@dataclass(frozen=True)
class Durations:
    """How long turns took, as bars from left to right: for each outcome one path; ``top``: the seconds of the longest; ``end``:
    where the last one ends."""

    paths: dict[str, str]
    top: float
    end: int


def _durations(volume: VolumeReport) -> Durations:
    turns = volume.turns[-_BARS:]
    top = max(turn.seconds for turn in turns) or 1.0
    step = min(28.0, 860 / len(turns))
    paths = {OK: "", PARTIAL: "", FAILED: ""}
    for number, turn in enumerate(turns):
        height = max(1.5, 60 * turn.seconds / top)
        paths[turn.outcome] += (
            f"M{68 + number * step:.1f} {66 - height:.1f}h{step * 0.78:.1f}v{height:.1f}h-{step * 0.78:.1f}z"
        )
    return Durations({outcome: path for outcome, path in paths.items() if path}, top, int(68 + len(turns) * step))


def _age(now_ns: int) -> Any:
    def age(then_ns: int) -> str:
        seconds = (now_ns - then_ns) / 1e9
        return f"{duration(seconds)} ago" if seconds >= 0 else f"{duration(-seconds)} ahead"

    return age


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def _minute(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000).astimezone().strftime("%Y-%m-%d %H:%M")


def _day(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000).astimezone().strftime("%Y-%m-%d")


def _shown(name: str | bytes) -> str:
    return shown(name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape"))


def _file(name: str) -> str:
    return resources.files("voltool.report").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
