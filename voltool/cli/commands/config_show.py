"""`voltool config show`: the values in effect, and where each comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli import completing
from voltool.cli.invocation import Invocation, begin
from voltool.errors import NotFoundError

if TYPE_CHECKING:
    from voltool.config.explain import Setting

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("voltool config show", "every key, its value, and whether the configuration says so, and on which line"),
    ("voltool config show vol1", "what is in effect for this volume: its own section, or what holds for all"),
    ("voltool --config /tmp/new.toml config show", "what another file would mean, before it is put in place"),
)


def config_show(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(autocompletion=completing.volumes, metavar="[NAME]", help="What is in effect for this volume."),
    ] = None,
) -> int:
    """Show the values in effect, and where each comes from: the default, or a line of the configuration.

    Of volumes' sections only what they say is shown; with NAME everything that is in effect for that volume.
    """
    from voltool.config.explain import explain, explain_volume
    from voltool.config.load import dotted, read_text
    from voltool.config.paths import default_store_url

    invocation = begin(context, "config show")
    settings, path = invocation.settings, invocation.settings_file
    text = "" if path is None else read_text(path)
    default_store = default_store_url(invocation.state)
    if name is None:
        found = explain(settings, text, default_store)
    else:
        _check_name(invocation, name)
        found = explain_volume(settings, text, name, default_store)
    invocation.output.line(f"configuration: {ascii(path)[1:-1] if path else 'no file, everything is the default'}")
    for line in _lines(found):
        invocation.output.line(line)
    invocation.fields["file"] = path
    invocation.fields["settings"] = [
        {"key": dotted(setting.key), "value": setting.text, "line": setting.line} for setting in found
    ]
    return invocation.finish()


def _check_name(invocation: Invocation, name: str) -> None:
    if name not in invocation.settings.volumes and name not in {
        volume.name for volume in invocation.world.catalog.volumes()
    }:
        raise NotFoundError(
            f"there is no volume {name!a}",
            why="neither the catalog nor the configuration has it",
            remedy="voltool volume list",
        )


def _lines(found: list[Setting]) -> list[str]:
    from voltool.cli.table import table
    from voltool.config.load import dotted

    rows = [
        (dotted(setting.key), setting.text, "default" if setting.line is None else f"line {setting.line}")
        for setting in found
    ]
    return table(("KEY", "VALUE", "FROM"), rows)
