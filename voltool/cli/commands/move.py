"""`voltool move`: a volume in use goes to another host; and goes on, back, or says where it stands."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.cli.options import Bandwidth, DryRun, PathMode
from voltool.errors import BusyError, UsageError

if TYPE_CHECKING:
    from voltool.move.driver import Moved, MoveOptions
    from voltool.move.job import Ends, Which
    from voltool.move.plan import Plan
    from voltool.move.sessions import SessionSettings


EXAMPLES = (
    ("voltool move mail hostB --dry-run", "every obstacle at once, and how long the lock would be"),
    ("voltool move mail hostB", "to the same path on hostB"),
    ("voltool move mail hostB:/srv/mail --bandwidth 50M --yes", "to another path, without being asked"),
    ("voltool move --lazy mail hostB", "hostB takes over at once; the files follow"),
    ("voltool move --status mail", "where it stands; of a lazy move, what is missing"),
    ("voltool move --resume mail --fill-from /tmp/restored", "files of a lost old home, out of a restored dump"),
    ("voltool move --resume mail", "go on after an interruption"),
    ("voltool move --abort mail", "or undo it: the volume stays where it was"),
)


def move(  # noqa: PLR0917 - typer gives them by name
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The volume. (With --resume, --abort: a host of the move, if nobody knows it here.)",
            autocompletion=completing.volumes,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Argument(
            autocompletion=completing.hosts,
            metavar="HOST[:/path]",
            help="Where to; the path it has unless another is given.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Go on with the move of this volume.", autocompletion=completing.volumes),
    ] = None,
    abort: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Undo it: the volume stays where it was.", autocompletion=completing.volumes),
    ] = None,
    forget_target: Annotated[
        bool, typer.Option("--forget-target", help="With --abort: the new home is lost for good; it is not asked.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Say where the move of NAME stands.")] = False,
    max_rounds: Annotated[
        int, typer.Option("--max-rounds", min=1, max=1000, metavar="N", help="At most so many rounds before the lock.")
    ] = 10,
    downtime: Annotated[
        float,
        typer.Option("--downtime", min=0.0, metavar="SECONDS", help="Catch up until the lock is as short as this."),
    ] = 1.0,
    max_lock: Annotated[
        int | None, typer.Option("--max-lock", min=1, metavar="SECONDS", help="Undo a lock that lasts longer.")
    ] = None,
    lock_timeout: Annotated[
        int, typer.Option("--lock-timeout", min=0, max=86_400, metavar="S", help="Wait so long for who still writes.")
    ] = 30,
    lock: Annotated[
        str,
        typer.Option("--lock", metavar="readonly|none", help="none: only the hooks; without root, or in a container."),
    ] = "readonly",
    bandwidth: Bandwidth = None,
    path: PathMode = None,
    dry_run: DryRun = False,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Go on also where the target's file system cannot hold every attribute.")
    ] = False,
    lazy: Annotated[
        bool,
        typer.Option("--lazy", help="The new home takes over at once; the files follow, those first that are read."),
    ] = False,
    fill_from: Annotated[
        str | None,
        typer.Option(
            "--fill-from",
            metavar="DIRECTORY",
            help="With --resume, after --lazy: on the new home, a tree with lost files.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Lock also for longer than --downtime.")] = False,
) -> int:
    """Move a volume in use to another host, with a short lock at the end."""
    from voltool.cli.move_asked import Given, refuse_stray
    from voltool.move.driver import MoveOptions
    from voltool.move.lazy import refuse_relay

    invocation = begin(context, "move")
    wanted = [bool(target), resume is not None, abort is not None, status]
    if sum(wanted) - (status and bool(target)) != 1 or (target and not name):
        raise UsageError(
            "what is to be done is not clear",
            remedy="voltool move NAME HOST[:/path], --resume NAME, --abort NAME, or --status [NAME]",
        )
    if forget_target and abort is None:
        raise UsageError("--forget-target goes with --abort", remedy="voltool move --abort NAME --forget-target")
    refuse_stray(
        begun=target is not None and not status, resumed=resume is not None, given=Given(lazy, dry_run, fill_from)
    )
    if status:
        return _status(invocation, name, target)
    if abort is not None:
        return _abort(invocation, _which(invocation, abort, name), forget_target=forget_target)

    def confirm(predicted: float) -> None:
        _confirm(invocation, predicted, downtime, yes=yes)

    if lazy:
        refuse_relay(path or invocation.settings.path)
    if dry_run:
        return _plan(invocation, name, target, only_hooks=lock == "none", lazy=lazy)

    options = MoveOptions(downtime=downtime, max_rounds=max_rounds, max_lock=max_lock, confirm=confirm, lossy=lossy)
    volume = resume or name
    assert volume is not None
    settings = _settings(
        invocation, volume, lock_timeout, bandwidth, path, only_hooks=_only_hooks(invocation, volume, lock)
    )
    if resume is not None:
        return _resume(invocation, _which(invocation, resume, name), settings, options, fill_from)
    assert target is not None
    return _move(invocation, volume, target, settings, options, lazy=lazy)


def _which(invocation: Invocation, name: str, host: str | None) -> Which:
    from voltool.cli.location import parse_host
    from voltool.move.job import Which

    return Which(name, parse_host(host) if host else "", tuple(invocation.settings.hosts))


def _only_hooks(invocation: Invocation, name: str, lock: str) -> bool:
    """Whether ``--lock none`` is given; says plainly what that means."""
    if lock not in ("readonly", "none"):
        raise UsageError(f"there is no lock {lock!a}", remedy="--lock readonly or --lock none")
    if lock == "readonly":
        return False
    stops = invocation.settings.volume(name).hooks.before_lock
    who = (
        "only the hook before_lock stops who writes"
        if stops
        else "and there is no hook before_lock that stops who writes"
    )
    invocation.output.notice(
        "warning",
        f"{name}: nothing will be locked, {who}: what is written up to the switch is seen and ends the move,"
        " what an open file gets after it stays in the old copy alone",
    )
    return True


def _settings(
    invocation: Invocation, name: str, lock_timeout: int, bandwidth: str | None, path: str | None, *, only_hooks: bool
) -> SessionSettings:
    from voltool.config.quantity import parse_bytes
    from voltool.move.sessions import SessionSettings
    from voltool.remote.paths import check_mode

    settings = invocation.settings
    section = settings.volume(name)
    return SessionSettings(
        owner=invocation.world.caller,
        codec=section.codec or settings.codec,
        workers=settings.workers,
        bandwidth=settings.bandwidth if bandwidth is None else parse_bytes(bandwidth),
        lock_timeout=lock_timeout,
        hooks=section.hooks,
        only_hooks=only_hooks,
        fetch_timeout=settings.fetch_timeout,
        path=check_mode(path or settings.path),
    )


def _resume(
    invocation: Invocation, which: Which, settings: SessionSettings, options: MoveOptions, given: str | None
) -> int:
    import time

    from voltool.cli import lazy_shown
    from voltool.move.job import resume_move

    if given is not None or lazy_shown.is_filling(invocation, which.name):
        return lazy_shown.go_on_filling(invocation, which.name, given)
    began = time.monotonic()
    done, ends = resume_move(invocation.world, which, settings, options)
    return _finish(invocation, which.name, done, ends, time.monotonic() - began)


def _move(
    invocation: Invocation, name: str, target: str, settings: SessionSettings, options: MoveOptions, *, lazy: bool
) -> int:
    import time

    from voltool.cli.location import parse_host, parse_location
    from voltool.move.job import MoveWish, move_volume

    began = time.monotonic()
    place = parse_location(target) if ":/" in target else None
    host = place.host if place else parse_host(target)
    wish = MoveWish(name, host, place.path if place else None, settings, options, lazy)
    done, ends = move_volume(invocation.world, wish)
    return _finish(invocation, name, done, ends, time.monotonic() - began)


def _finish(invocation: Invocation, name: str, done: Moved, ends: Ends, seconds: float) -> int:
    _tell(invocation, name, done, ends, seconds)
    if ends.source.lazy:
        from voltool.cli.lazy_shown import tell_what_follows

        tell_what_follows(invocation, name)
    if done.hook_failed:
        _tell_hook_failed(invocation, name, done, ends)
    return invocation.finish()


def _plan(invocation: Invocation, name: str | None, target: str | None, *, only_hooks: bool, lazy: bool) -> int:
    from voltool.cli.location import parse_host, parse_location
    from voltool.errors import EXIT_DONE, EXIT_FAILED
    from voltool.move.plan import plan_move

    assert name
    assert target
    place = parse_location(target) if ":/" in target else None
    host = place.host if place else parse_host(target)
    plan = plan_move(invocation.world, name, host, place.path if place else None, only_hooks=only_hooks, lazy=lazy)
    _show_plan(invocation, plan)
    invocation.fields["plan"] = _plan_object(plan)
    invocation.codes.append(EXIT_FAILED if plan.obstacles else EXIT_DONE)
    return invocation.finish()


def _show_plan(invocation: Invocation, plan: Plan) -> None:
    from voltool.cli import display
    from voltool.showing import shown

    name = plan.volume.name
    source, line = plan.source, invocation.output.line
    line(f"{name}: {plan.volume.host}:{shown(plan.volume.path)} ({source.record.driver})")
    line(f"  to {plan.host}:{shown(plan.path)} ({plan.target.driver} on {plan.target.kind})")
    line(f"  {display.count(source.entries, 'entry', 'entries')}, {display.amount(source.bytes)};")
    line(f"  {display.amount(plan.target.free_bytes)} are free there")
    line("  copy, catch up until the lock is short, lock, last increment, switch, publish")
    line(f"  the last lock: about {plan.predicted:.1f} s, if no more changes then than in the last minute")
    if plan.unknown_owners:
        line(f"  not known there by name (their numbers are kept): {', '.join(plan.unknown_owners[:20])}")
    for obstacle in plan.obstacles:
        line(f"  in the way, on {obstacle.host}: {obstacle.what}: {obstacle.where}")
        for label, text in (("why", obstacle.why), ("try", obstacle.remedy)):
            if text:
                line(f"    {label}: {text}")


def _plan_object(plan: Plan) -> dict[str, object]:
    from voltool.cli.json_lines import name_value

    return {
        "from": {"host": plan.volume.host, "path": name_value(plan.volume.path)},
        "to": {"host": plan.host, "path": name_value(plan.path)},
        "driver": plan.target.driver,
        "entries": plan.source.entries,
        "bytes": plan.source.bytes,
        "free_bytes": plan.target.free_bytes,
        "predicted_downtime_seconds": round(plan.predicted, 3),
        "unknown_owners": list(plan.unknown_owners),
        "obstacles": [
            {"host": each.host, "what": each.what, "where": each.where, "why": each.why, "try": each.remedy}
            for each in plan.obstacles
        ],
    }


def _tell(invocation: Invocation, name: str, done: Moved, ends: Ends, seconds: float) -> None:
    from voltool.cli import display
    from voltool.cli.json_lines import name_value
    from voltool.showing import shown

    here, there = ends.volume, ends.source.target
    text = f"{name}: moved to {there.host}:{shown(there.path)}: {display.amount(done.bytes)}"
    text += f", {display.count(done.entries, 'entry', 'entries')}, {display.count(done.rounds, 'round')}"
    text += f", {seconds:.1f} s"
    if done.downtime is not None:
        text += f", downtime {done.downtime:.2f} s"
    invocation.output.summary(text)
    invocation.fields |= {
        "volume": name,
        "from": {"host": here.host, "path": name_value(here.path)},
        "to": {"host": there.host, "path": name_value(there.path)},
        "epoch": done.epoch,
        "bytes": done.bytes,
        "entries": done.entries,
        "rounds": done.rounds,
        "seconds": round(seconds, 3),
        "downtime_seconds": None if done.downtime is None else round(done.downtime, 3),
    }


def _tell_hook_failed(invocation: Invocation, name: str, done: Moved, ends: Ends) -> None:
    from voltool.errors import HostError
    from voltool.showing import shown

    here, there = ends.volume, ends.source.target
    back = f"voltool move {name} {here.host}:{shown(here.path)}"
    error = HostError(
        "the volume is in service at its new home, but the hook after_online failed",
        where=f"{there.host}:{shown(there.path)}",
        why=done.hook_failed,
        remedy=f"voltool move --resume {name} runs it again; the way back is {back}",
    )
    invocation.failed(error, name)


def _confirm(invocation: Invocation, predicted: float, downtime: float, *, yes: bool) -> None:
    """Ask; without a terminal, BusyError."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise BusyError(
            "the volume would be locked for longer than you want",
            why=f"about {predicted:.1f} s, and --downtime says {downtime:g} s; nothing is locked",
            remedy="--yes, a larger --downtime, or a time when less is written; what has arrived is kept",
        )
    question = f"The volume will be locked for about {predicted:.1f} s, and --downtime says {downtime:g} s. Go on?"
    if not invocation.output.ask(question):
        raise BusyError("the volume was not locked", why="you said no", remedy="again at another time")


def _abort(invocation: Invocation, which: Which, *, forget_target: bool) -> int:
    from voltool.move.job import abort_move
    from voltool.showing import shown

    ends = abort_move(invocation.world, which, forget_target=forget_target)
    name = which.name
    invocation.output.summary(f"{name}: the move is undone; it stays at {ends.volume.host}:{shown(ends.volume.path)}")
    invocation.fields |= {"volume": name, "aborted": True}
    return invocation.finish()


def _status(invocation: Invocation, name: str | None, host: str | None) -> int:
    from voltool.cli.lazy_shown import show_fill
    from voltool.move.job import standing

    names = [name] if name else [volume.name for volume in invocation.world.catalog.volumes()]
    found = []
    for each in names:
        fill = show_fill(invocation, each)
        if fill is not None:
            found.append(fill)
            continue
        now = standing(invocation.world, _which(invocation, each, host))
        found.append(
            {
                "volume": each,
                "source": now.source.phase if now.source else None,
                "target": now.target.phase if now.target else None,
                "what": now.what,
                "command": now.command or None,
                "fill": None,
            }
        )
        invocation.output.line(f"{each}: {now.what}" + (f"\n  to go on: {now.command}" if now.command else ""))
    invocation.fields["moves"] = found
    return invocation.finish()
