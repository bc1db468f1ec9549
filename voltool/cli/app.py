"""The tree of commands. A command parses, calls one function, renders; each is one file under commands/."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from voltool import __version__
from voltool.cli.commands import (
    backup,
    cat,
    catalog_rebuild,
    clone,
    clones,
    config_show,
    copy,
    diff,
    doctor,
    dump,
    dumps,
    export,
    find,
    history,
    host_check,
    host_clean,
    lock,
    ls,
    merge,
    mount,
    move,
    prune,
    replica_add,
    replica_list,
    replica_promote,
    replica_remove,
    replica_sync,
    report,
    restore,
    retired,
    schedule,
    size,
    status,
    umount,
    undelete,
    unlock,
    verify,
    volume_add,
    volume_list,
    volume_remove,
    volume_set,
    volume_show,
    where,
)
from voltool.cli.invocation import Invocation

Command = Callable[..., int]

app = typer.Typer(
    name="voltool",
    help="Volumes for any Linux server: dump, restore, move, replicate and back up every night, over SSH, with nothing"
    " installed there but python3.",
    epilog="Exit codes: 0 done; 1 failed; 2 usage; 3 done, but some files could not be read or never settled, or a volume"
    " is overdue, or a replica too old; 4 busy; 5 integrity; 6 host not reached; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

#: Commands that have commands, with what they are about.
_GROUPS: dict[str, tuple[str, dict[str, Command]]] = {
    "volume": (
        "The records of volumes.",
        {
            "add": volume_add.volume_add,
            "list": volume_list.volume_list,
            "show": volume_show.volume_show,
            "set": volume_set.volume_set,
            "remove": volume_remove.volume_remove,
        },
    ),
    "replica": (
        "Read-only copies of volumes on other hosts, that are kept up to date.",
        {
            "add": replica_add.replica_add,
            "list": replica_list.replica_list,
            "sync": replica_sync.replica_sync,
            "promote": replica_promote.replica_promote,
            "remove": replica_remove.replica_remove,
        },
    ),
    "schedule": (
        "What will be dumped when, and what calls `voltool backup` every day.",
        {
            "show": schedule.schedule_show,
            "install": schedule.schedule_install,
            "uninstall": schedule.schedule_uninstall,
        },
    ),
    "retired": (
        "The copies that volumes left behind when they moved.",
        {"list": retired.retired_list, "purge": retired.retired_purge},
    ),
    "host": (
        "What voltool can do on a host, and what it left there.",
        {"check": host_check.host_check, "clean": host_clean.host_clean},
    ),
    "catalog": ("The memory of volumes and dumps.", {"rebuild": catalog_rebuild.catalog_rebuild}),
    "config": ("The configuration.", {"show": config_show.config_show}),
}
#: All others, in the order in which --help has them: dumps, what becomes of them, looking into them, moving, the rest.
_COMMANDS: dict[str, Command] = {
    "backup": backup.backup,
    "dump": dump.dump,
    "size": size.size,
    "restore": restore.restore,
    "verify": verify.verify,
    "dumps": dumps.dumps,
    "status": status.status,
    "report": report.report,
    "merge": merge.merge,
    "prune": prune.prune,
    "undelete": undelete.undelete,
    "ls": ls.ls,
    "cat": cat.cat,
    "find": find.find,
    "diff": diff.diff,
    "mount": mount.mount,
    "umount": umount.umount,
    "export": export.export,
    "move": move.move,
    "where": where.where,
    "copy": copy.copy,
    "clone": clone.clone,
    "clones": clones.clones,
    "lock": lock.lock,
    "unlock": unlock.unlock,
    "history": history.history,
    "doctor": doctor.doctor,
}


def short_help(text: str) -> str:
    """What the list of commands says of one: its first sentence, as far as that can stand alone."""
    first = " ".join(text.split("\n\n", maxsplit=1)[0].split())
    for end in (". ", ": ", "; "):
        first = first.partition(end)[0]
    return first.rstrip(".") + "."


def _register() -> None:
    for name, command in _COMMANDS.items():
        app.command(name, short_help=short_help(command.__doc__ or ""))(command)
    for group, (text, commands) in _GROUPS.items():
        below = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
        for name, command in commands.items():
            below.command(name, short_help=short_help(command.__doc__ or ""))(command)
        app.add_typer(below, name=group, short_help=text)


_register()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"voltool {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="Another configuration file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line; the last one is the result.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, also about failures.")] = False,
    ask_become_pass: Annotated[
        bool, typer.Option("--ask-become-pass", help="Ask for sudo's password on hosts with become = true.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before or after any command."""
    invocation = context.obj
    assert isinstance(invocation, Invocation)
    assert not version
    invocation.config = config
    invocation.ask_become_pass = ask_become_pass
    invocation.output.json = json
    invocation.output.quiet = quiet
    invocation.output.verbose = verbose
