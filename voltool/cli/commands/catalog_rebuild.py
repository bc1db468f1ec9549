"""`voltool catalog rebuild`: what the catalog knew, from stores and hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from voltool.cli.invocation import Invocation, begin

if TYPE_CHECKING:
    from voltool.backup.rebuild import RebuildOutcome

EXAMPLES: tuple[tuple[str, str], ...] = (
    (
        "voltool catalog rebuild --store /srv/dumps",
        "everything that this store knows, and the hosts that its list names",
    ),
    ("voltool catalog rebuild --store sftp://backup/srv/dumps", "the same from a store on another machine"),
    ("voltool catalog rebuild", "the stores of the configuration and those that the catalog knows"),
    (
        "voltool catalog rebuild --store /srv/dumps --host web1 --host web2",
        "ask these hosts for their volumes, and no others",
    ),
)


def catalog_rebuild(
    context: typer.Context,
    store: Annotated[
        list[str] | None, typer.Option("--store", metavar="URL", help="A store to look into; may be repeated.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="H",
            help="A host to ask for its volumes; may be repeated. Else those that the lists name.",
        ),
    ] = None,
) -> int:
    """Get the catalog back: dumps and volumes from stores, volumes and replicas from their hosts.

    What is there already stays. A damaged catalog is put aside under another name, never deleted; what no store and no host knows
    (the history of runs and moves) is in that file alone. Of two that claim a volume the one with the higher epoch counts, and
    both are named. What is malformed in a store is named and passed over.
    """
    from voltool.backup.rebuild import rebuild
    from voltool.catalog.repair import put_aside_if_damaged
    from voltool.config.paths import catalog_path

    invocation = begin(context, "catalog rebuild")
    urls = _stores(invocation, store or [])
    aside = put_aside_if_damaged(catalog_path(invocation.state))
    if aside is not None:
        invocation.fields["put_aside"] = aside
        invocation.output.notice("warning", f"the catalog was damaged; it is {aside} now, and a new one is made")
    remembered = [dump.store for dump in invocation.world.catalog.dumps()] if not store else []
    outcome = rebuild(invocation.world, list(dict.fromkeys([*urls, *remembered])), host or [])
    for subject, error in outcome.failed:
        invocation.failed(error, subject)
    _show(invocation, outcome)
    _tell_of_configuration(invocation, urls)
    return invocation.finish()


def _stores(invocation: Invocation, given: list[str]) -> list[str]:
    if given:
        return [invocation.store_url(explicit=url) for url in given]
    sections = invocation.settings.volumes.values()
    own = [invocation.store_url(explicit=section.store) for section in sections if section.store]
    return list(dict.fromkeys([invocation.store_url(), *own]))


def _show(invocation: Invocation, outcome: RebuildOutcome) -> None:
    from voltool.cli import display
    from voltool.cli.json_lines import volume_object

    for name in outcome.nowhere:
        invocation.output.notice(
            "warning", f"{name}: there are dumps, and nobody says where it lives: voltool volume add {name} HOST:/path"
        )
    invocation.fields["volumes"] = [volume_object(volume) for volume in outcome.volumes]
    invocation.fields["dumps"] = len(outcome.dumps)
    invocation.fields["replicas"] = len(outcome.replicas)
    invocation.fields["accepted"] = outcome.accepted
    invocation.fields["nowhere"] = outcome.nowhere
    text = f"the catalog has {display.count(len(outcome.volumes), 'volume')} and {display.count(len(outcome.dumps), 'dump')}"
    if outcome.replicas:
        text += f", and knows {display.count(len(outcome.replicas), 'replica')}"
    invocation.output.summary(text)


def _tell_of_configuration(invocation: Invocation, urls: list[str]) -> None:
    """Where there is none, a store may have a copy."""
    from voltool.backup.safekeeping import CONFIG
    from voltool.errors import VoltoolError

    if invocation.settings_file is not None:
        return
    for url in urls:
        try:
            if invocation.world.stores.open(url).get_aside(CONFIG) is None:
                continue
        except VoltoolError:
            continue
        message = f"there is no configuration here, and {url}/{CONFIG} is a copy: look at it, and put it to ~/.config/voltool/"
        invocation.output.notice("info", message)
        return
