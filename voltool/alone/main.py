"""The command line of the stand-alone reader: restore, list, verify. Exit codes as voltool's."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
from typing import Iterator, List, Optional, Sequence, Tuple

from voltool import __version__
from voltool.alone.dumps import DumpFile, DumpShelf, newest_of, opened
from voltool.dumpfile import codec
from voltool.dumpfile.chain import Chain
from voltool.dumpfile.format import ObjectRecord
from voltool.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    EXIT_USAGE,
    VoltoolError,
    combined_exit_code,
)
from voltool.events import Event, Notice, Progressed
from voltool.model import ROOT_OBJECT
from voltool.showing import shown

_HELP = """Reads dumps made by voltool, with nothing but python3 (3.9 or later).

  python3 voltool.pyz list FILE...            what the files are; a directory stands for all dumps in it
  python3 voltool.pyz list --files FILE...    the names in the newest of them
  python3 voltool.pyz verify FILE...          check every byte
  python3 voltool.pyz restore FILE... DIR     restore the newest of them to DIR, which must not exist yet or be empty

A dump above level 0 rests on others. Name them too, in any order, or leave them in the same directory: there they are found.
"""
_CODES = "exit codes: 0 done; 1 failed; 2 usage; 3 done, but some content is not as it was; 4 busy; 5 integrity; 130 interrupted"
#: Progress is told at most so often, in seconds.
_EVERY = 5.0


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    try:
        options = _parser().parse_args(list(arguments))
    except SystemExit as end:
        return EXIT_USAGE if end.code else EXIT_DONE
    if options.command is None:
        _parser().print_help(sys.stderr)
        return EXIT_USAGE
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return int(options.run(options, DumpShelf(lambda text: _say(f"warning: {text}"))))
    except VoltoolError as error:
        return _failed(error)
    except KeyboardInterrupt:
        _say("interrupted; the same restore again goes on where this one stopped")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="voltool.pyz", description=_HELP, epilog=_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"voltool {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    listing = commands.add_parser("list", help="what the files are")
    listing.add_argument("--files", action="store_true", help="the names in the newest of them")
    listing.add_argument("dumps", metavar="FILE", nargs="+")
    listing.set_defaults(run=_list)
    verify = commands.add_parser("verify", help="check every byte of the dumps and of what they rest on")
    verify.add_argument("dumps", metavar="FILE", nargs="+")
    verify.set_defaults(run=_verify)
    restore = commands.add_parser("restore", help="restore the newest of the dumps to a new directory")
    restore.add_argument("--numeric-owner", action="store_true", help="owners by number, not by name")
    restore.add_argument("dumps", metavar="FILE", nargs="+")
    restore.add_argument("target", metavar="DIR")
    restore.set_defaults(run=_restore)
    return parser


# -------------------------------------------------------------------------------------------------------- the commands


def _restore(options: argparse.Namespace, shelf: DumpShelf) -> int:
    from voltool.alone.restoring import restore

    named = shelf.named(_paths(options.dumps))
    newest = newest_of(named)
    chain = shelf.chain(newest)
    for dump in chain:
        _say(f"level {dump.header.level}: {shown(dump.path)}")
    for dump in named:
        if dump not in chain:
            _say(f"not needed: {shown(dump.path)}")
    _warn_if_slow()
    target = os.fsencode(options.target)
    with opened(chain) as whole:
        applied = restore(whole, target, _Teller(), numeric_owner=options.numeric_owner)
    for problem in applied.problems:
        _say(f"warning: {problem.problem.value}: {shown(problem.path)}: {problem.why}")
    entries = _count(applied.entries, "entry", "entries")
    print(f"restored to {shown(target)}: {entries}, {_count(applied.bytes, 'byte')}, as of {_time(newest)}")
    return EXIT_PARTIAL if applied.problems else EXIT_DONE


def _verify(options: argparse.Namespace, shelf: DumpShelf) -> int:
    from voltool.dumpfile.verify import verify_chain

    _warn_if_slow()
    named = shelf.named(_paths(options.dumps))
    codes = []
    bases = set()
    for dump in sorted(named, key=lambda dump: dump.order, reverse=True):
        if dump in bases:  # it was checked with what rests on it
            continue
        try:
            chain = shelf.chain(dump)
            with opened(chain) as whole:
                verify_chain(whole)
        except VoltoolError as error:
            codes.append(_failed(error))
            continue
        bases.update(chain)
        entries = _count(dump.totals.entries, "entry", "entries")
        print(f"{shown(dump.path)} is whole: {entries}, in {_count(len(chain), 'dump')}")
    return combined_exit_code(codes)


def _list(options: argparse.Namespace, shelf: DumpShelf) -> int:
    named = shelf.named(_paths(options.dumps))
    if options.files:
        with opened(shelf.chain(newest_of(named))) as chain:
            _print_tree(chain)
        return EXIT_DONE
    volumes = sorted({(dump.header.volume_name, dump.header.volume_uuid) for dump in named})
    for name, uuid in volumes:
        print(f"{shown(os.fsencode(name))} ({shown(os.fsencode(uuid))})")
        of_volume = [dump for dump in named if dump.header.volume_uuid == uuid]
        for dump in sorted(of_volume, key=lambda dump: dump.order):
            header = dump.header
            missing = "" if shelf.has_base(dump) else f"  (the dump {header.base_dump_id} below it is missing)"
            print(
                f"  level {header.level}  {_time(dump)}  {_count(dump.totals.entries, 'entry', 'entries'):>15}"
                f"  {_count(dump.totals.stored_bytes, 'byte'):>20}  {shown(dump.path)}{missing}"
            )
    return EXIT_DONE


def _print_tree(chain: Chain) -> None:
    for path, record in _tree(chain):
        kind = stat.filemode(record.mode)
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.mtime_s))
        print(f"{kind} {record.uid:>6} {record.gid:>6} {record.size:>14,} {moment} {shown(path)}")


def _tree(chain: Chain) -> Iterator[Tuple[bytes, ObjectRecord]]:
    """All paths of the newest state, directories before what is in them."""
    waiting: List[Tuple[bytes, int]] = [(b".", ROOT_OBJECT)]
    while waiting:
        path, number = waiting.pop()
        record = chain.object(number)
        if record is None:
            continue
        yield path, record
        if stat.S_ISDIR(record.mode):
            prefix = b"" if number == ROOT_OBJECT else path + b"/"
            waiting += [(prefix + name, child) for name, child in reversed(list(chain.entries_of(number)))]


# ------------------------------------------------------------------------------------------------------ what is said


class _Teller:
    """A Reporter for people: notices, and a line of progress now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def report(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Notice):
            mark = "" if event.severity == "info" else f"{event.severity}: "
            _say(mark + event.message)
        elif isinstance(event, Progressed) and time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            _say(f"{event.files:,} files, {event.bytes:,} bytes")


def _warn_if_slow() -> None:
    if codec.find_lz4() is None:
        _say("this machine has no lz4 library: what is compressed with it is read slowly, some MB a second")


def _failed(error: VoltoolError) -> int:
    lines = [error.what]
    for label, text in (("where", error.where), ("why", error.why), ("try", error.remedy)):
        if text:
            lines.append(f"  {label + ':':<6} {text}")
    _say("\n".join(lines))
    return error.exit_code


def _say(text: str) -> None:
    print(f"voltool.pyz: {text}", file=sys.stderr, flush=True)


def _time(dump: DumpFile) -> str:
    seconds = dump.header.clone_time_ns // 1_000_000_000
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _paths(words: Optional[Sequence[str]]) -> List[bytes]:
    return [os.fsencode(word) for word in words or ()]
