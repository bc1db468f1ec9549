"""The tree of commands. A command parses, calls one function, renders; each is one file under commands/."""

# ruff: noqa: FBT002 - a flag of the command line is a boolean with a default; nobody calls these by position

from __future__ import annotations

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

app = typer.Typer(
    name="voltool",
    help="Volumes for any Linux server: dump and restore over SSH, with nothing installed there but python3.",
    epilog="Exit codes: 0 done; 1 failed; 2 usage; 3 done, but some files could not be read or never settled; "
    "4 busy; 5 integrity; 6 host not reached; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
_volume = typer.Typer(help="The records of volumes.", no_args_is_help=True, rich_markup_mode=None)
_retired = typer.Typer(
    help="The copies that volumes left behind when they moved.", no_args_is_help=True, rich_markup_mode=None
)
_host = typer.Typer(
    help="What voltool can do on a host, and what it left there.", no_args_is_help=True, rich_markup_mode=None
)

_schedule = typer.Typer(
    help="What will be dumped when, and what calls `voltool backup` every day.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_catalog = typer.Typer(help="The memory of volumes and dumps.", no_args_is_help=True, rich_markup_mode=None)
_config = typer.Typer(help="The configuration.", no_args_is_help=True, rich_markup_mode=None)

_volume.command("add")(volume_add.volume_add)
_volume.command("list")(volume_list.volume_list)
_volume.command("show")(volume_show.volume_show)
_volume.command("set")(volume_set.volume_set)
_volume.command("remove")(volume_remove.volume_remove)
app.add_typer(_volume, name="volume")
app.command("dump")(dump.dump)
app.command("dumps")(dumps.dumps)
app.command("status")(status.status)
app.command("report")(report.report)
app.command("merge")(merge.merge)
app.command("prune")(prune.prune)
app.command("undelete")(undelete.undelete)
app.command("backup")(backup.backup)
_schedule.command("show")(schedule.schedule_show)
_schedule.command("install")(schedule.schedule_install)
_schedule.command("uninstall")(schedule.schedule_uninstall)
app.add_typer(_schedule, name="schedule")
app.command("restore")(restore.restore)
app.command("size")(size.size)
app.command("verify")(verify.verify)
app.command("ls")(ls.ls)
app.command("cat")(cat.cat)
app.command("find")(find.find)
app.command("diff")(diff.diff)
app.command("mount")(mount.mount)
app.command("umount")(umount.umount)
app.command("export")(export.export)
app.command("clone")(clone.clone)
app.command("clones")(clones.clones)
app.command("where")(where.where)
app.command("move")(move.move)
_retired.command("list")(retired.retired_list)
_retired.command("purge")(retired.retired_purge)
app.add_typer(_retired, name="retired")
app.command("copy")(copy.copy)
app.command("history")(history.history)
app.command("doctor")(doctor.doctor)
app.command("lock")(lock.lock)
app.command("unlock")(unlock.unlock)
_host.command("check")(host_check.host_check)
_host.command("clean")(host_clean.host_clean)
app.add_typer(_host, name="host")
_catalog.command("rebuild")(catalog_rebuild.catalog_rebuild)
app.add_typer(_catalog, name="catalog")
_config.command("show")(config_show.config_show)
app.add_typer(_config, name="config")


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
