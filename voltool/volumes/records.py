"""What a host knows durably of its volumes: the registry, and each volume's own area. Ships to servers.

``<state directory>/volumes/<uuid>.json`` says where a volume is; its area, ``.voltool/<uuid>/`` on the volume's own file
system, holds the record, the lock, clones and states. Knows nothing of dumps, drivers or who asks. The state directory is
passed in. Order of writes: registry first, then the record; a volume exists when both are there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
from typing import Any, Dict, Iterator, List, Optional

from voltool import durable
from voltool.errors import AgentError, HostError, MovedError, NotFoundError, RefusedError
from voltool.frozen import dataclass
from voltool.model import MOVED, RETIRED, RETIRING, Epoch, SourceMove, VolumeRecord
from voltool.showing import shown
from voltool.volumes.heard import refuse_superseded
from voltool.volumes.mounts import is_mount_point
from voltool.volumes.moving.records import MoveBook
from voltool.volumes.splits import refuse_split
from voltool.wire.codec import from_plain, to_plain

AREA_NAME = b".voltool"
RECORD_NAME = b"volume.json"
LOCK_NAME = b"lock"
_SUFFIX = b".json"
#: The registry's name for what was forgotten but still has clones or states lying about.
_FORGOTTEN = b".forgotten"
_FORMAT = 1
#: How the owner of a volume's lock is called who only clones: others wait for it, so long (seconds).
CLONING_FOR_REPLICA = "a clone for replica"
_CLONE_PATIENCE = 20.0


@dataclass(frozen=True)
class RegistryEntry:
    """Where a volume is: its path and its area. ``forgotten``: only left-overs of it are there."""

    uuid: str
    path: bytes
    area: bytes
    forgotten: bool = False

    @property
    def lives(self) -> bool:
        """Whether the volume's own record is (reachable) there and nobody has forgotten it."""
        return not self.forgotten and os.path.exists(os.path.join(self.area, RECORD_NAME))


class VolumeHome:
    """A volume on its host, opened: ``record`` as last saved, ``area`` the directory for all that voltool keeps of it."""

    def __init__(self, record: VolumeRecord, area: bytes) -> None:
        self.record = record
        self.area = area

    def lock(self, owner: str) -> durable.FileLock:
        """The volume's lock, to be used as a context; BusyError at once where someone else works on the volume, but for the
        moment in which a clone is made for a replica."""
        return durable.FileLock(
            os.path.join(self.area, LOCK_NAME),
            what=f"the volume {self.record.name!r}",
            owner=owner,
            patience=_CLONE_PATIENCE,
            with_whom=CLONING_FOR_REPLICA,
        )

    def lock_to_clone(self, replica_id: str) -> durable.FileLock:
        """The same for the moment in which a clone is made for a replica; whoever holds it is waited for, for a while."""
        return durable.FileLock(
            os.path.join(self.area, LOCK_NAME),
            what=f"the volume {self.record.name!r}",
            owner=f"{CLONING_FOR_REPLICA} {replica_id}",
            patience=_CLONE_PATIENCE,
        )

    def save(self, record: VolumeRecord) -> None:
        """Replace the record, atomically and durably. The caller holds the lock."""
        content = {"format": _FORMAT, "record": to_plain(record)}
        durable.write_file(os.path.join(self.area, RECORD_NAME), json.dumps(content, indent=1).encode() + b"\n")
        self.record = record

    def next_sequence(self) -> int:
        """Raise the volume's sequence by one, durably, and return it. The caller holds the lock.

        The number is read anew: the record may be older than the lock.
        """
        current = read_record(self.area) or self.record
        self.save(dataclasses.replace(current, sequence=current.sequence + 1))
        return self.record.sequence


def locate_area(path: bytes) -> bytes:
    """The `.voltool` directory for a volume at ``path``: beside it, or inside where it is a mount point."""
    if is_mount_point(path):
        return os.path.join(path, AREA_NAME)
    return os.path.join(os.path.dirname(path), AREA_NAME)


def area_of(path: bytes, uuid: str) -> bytes:
    """The area of one volume at ``path``: where it is, else where it would be made.

    A lock is a mount over the path itself, which must not make another place of it.
    """
    beside = os.path.join(os.path.dirname(path), AREA_NAME, uuid.encode())
    if os.path.isdir(beside):
        return beside
    return os.path.join(locate_area(path), uuid.encode())


def create(state_directory: bytes, record: VolumeRecord) -> VolumeHome:
    """Make the volume's area and register it. Idempotent; an older record of the same uuid is replaced.

    Raises HostError where we lack rights, RefusedError where `.voltool` is not ours alone.
    """
    area = area_of(record.path, record.uuid)
    home = VolumeHome(record, area)
    with _rights(record.path):
        _make_own_directory(os.path.dirname(area))
        _make_own_directory(area)
        durable.make_directory(_registry(state_directory))
        content = {
            "format": _FORMAT,
            "uuid": record.uuid,
            "path": os.fsdecode(record.path),
            "area": os.fsdecode(area),
        }
        durable.write_file(_entry_path(state_directory, record.uuid), json.dumps(content, indent=1).encode() + b"\n")
        durable.remove_file(_entry_path(state_directory, record.uuid, forgotten=True))
        home.save(record)
    return home


def open_home(
    state_directory: bytes, uuid: str, path: bytes, *, moving: bool = False, split: bool = False
) -> VolumeHome:
    """The volume ``uuid``, which must be registered at ``path``. ``moving``: also while it is on its way to another host;
    ``split``: also while it lives on two hosts, or this one has heard of a later home, for who only looks, or ends that.

    Raises RefusedError (MovedError) where a move has taken it away; NotFoundError (with ``volume set`` as remedy) where this
    host does not know it, knows it elsewhere, or its area is not there; RefusedError where the area could be someone else's.
    """
    entry = _read_entry(_entry_path(state_directory, uuid))
    where = shown(path)
    if not moving:
        _refuse_away(state_directory, uuid)
    if entry is None:
        raise _not_found(
            "this host has no record of the volume", where, "it was never added, or the host was set up anew"
        )
    if path not in (entry.path, b"") and os.path.realpath(path) != entry.path:
        raise _not_found("the volume is not at this path", where, f"this host has it at {shown(entry.path)}")
    if not os.path.isdir(entry.path):
        raise _not_found("the volume's directory is not there", where, "it was moved, removed, or is not mounted")
    if not os.path.lexists(entry.area):
        raise _not_found(
            "the volume's own records are not there",
            shown(entry.area),
            "its file system is not mounted, or the directory was moved",
        )
    check_own_directory(os.path.dirname(entry.area))
    check_own_directory(entry.area)
    record = read_record(entry.area)
    if record is None or record.uuid != uuid:
        raise _not_found("the volume's own record is lost", shown(entry.area), "volume.json is missing or unreadable")
    if not split:
        refuse_split(entry.area, record)
        refuse_superseded(entry.area, record)
    return VolumeHome(record, entry.area)


def _refuse_away(state_directory: bytes, uuid: str) -> None:
    """What stands at the path of a volume that was switched over is not the volume."""
    move = MoveBook(state_directory).source(uuid)
    if move is not None and move.phase in (RETIRING, MOVED) and not move.promoted:
        raise RefusedError(
            "the volume is in service nowhere: its move was interrupted",
            where=shown(move.path),
            why=f"it was on its way to {move.target.host}:{shown(move.target.path)}",
            remedy=f"voltool move --resume {move.name}",
        )
    if move is not None and (move.phase == RETIRED or (move.promoted and move.phase in (RETIRING, MOVED))):
        raise MovedError(
            "a replica was promoted in the volume's place" if move.promoted else "the volume has moved",
            where=shown(move.path),
            why=f"it lives at {move.target.host}:{shown(move.target.path)}",
            remedy=f"voltool volume set {move.name} {move.target.host}:{shown(move.target.path)}",
        )


def read_left_record(path: bytes, uuid: str) -> Optional[VolumeRecord]:
    """The record that an area at ``path`` still holds, registered on this host or not; None where there is none."""
    return read_record(area_of(path, uuid))


def list_entries(state_directory: bytes) -> List[RegistryEntry]:
    """All that the registry says, forgotten volumes included; by uuid."""
    try:
        names = sorted(os.listdir(_registry(state_directory)))
    except FileNotFoundError:
        return []
    entries = [_read_entry(os.path.join(_registry(state_directory), name)) for name in names if name.endswith(_SUFFIX)]
    return [entry for entry in entries if entry is not None]


def forgotten_home(state_directory: bytes, uuid: str, record: SourceMove) -> VolumeHome:
    """A volume that is out of the registry, whose area is still here: for the end of its move."""
    for entry in list_entries(state_directory):
        if entry.uuid == uuid:
            gone = VolumeRecord(uuid, record.name, record.path, "directory", record.epoch or Epoch(0, "", ""), 0)
            return VolumeHome(gone, entry.area)
    raise _not_found("this host has no record of the volume", shown(record.path), "it was purged")


def list_homes(state_directory: bytes) -> List[VolumeHome]:
    """The volumes that can be opened now; those whose file system is not mounted are left out."""
    homes = []
    for entry in list_entries(state_directory):
        if not entry.forgotten:
            with contextlib.suppress(NotFoundError, RefusedError):
                homes.append(open_home(state_directory, entry.uuid, entry.path, split=True))
    return homes


def forget(state_directory: bytes, uuid: str) -> List[bytes]:
    """Forget the volume; its data, clones and states stay and their paths are returned. Idempotent.

    The registry keeps in mind that there are left-overs, so that `host clean` finds them.
    """
    entry = _read_entry(_entry_path(state_directory, uuid))
    if entry is None:
        return []
    os.rename(_entry_path(state_directory, uuid), _entry_path(state_directory, uuid, forgotten=True))
    durable.fsync_directory(_registry(state_directory))
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        durable.remove_file(os.path.join(entry.area, RECORD_NAME))
    left = leftovers(entry.area)
    if not left:
        durable.remove_file(_entry_path(state_directory, uuid, forgotten=True))
    return left


def drop_entry(state_directory: bytes, entry: RegistryEntry) -> None:
    """Take the entry out of the registry; for `host clean`, when nothing of the volume is left. Idempotent."""
    durable.remove_file(_entry_path(state_directory, entry.uuid, forgotten=entry.forgotten))


def move_area(old: bytes, new: bytes) -> None:
    """Take an area to where its volume is now. Raises OSError: EXDEV on another file system, EEXIST where one is."""
    _make_own_directory(os.path.dirname(new))
    durable.rename_new(old, new)
    durable.fsync_directory(os.path.dirname(new))
    durable.fsync_directory(os.path.dirname(old))
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(old))  # only if nothing else of voltool is there


def remember_area(state_directory: bytes, path: bytes) -> None:
    """Note that something of voltool lies at ``path`` (an area, staging), so that `host clean` finds it. Idempotent."""
    durable.make_directory(_places(state_directory))
    content = {"format": _FORMAT, "path": os.fsdecode(path)}
    durable.write_file(_note_path(state_directory, path), json.dumps(content).encode() + b"\n")


def forget_area(state_directory: bytes, path: bytes) -> None:
    """Take back what `remember_area` noted, if nothing is at ``path`` any more. Idempotent."""
    if not os.path.lexists(path):
        durable.remove_file(_note_path(state_directory, path))


def remembered_areas(state_directory: bytes) -> List[bytes]:
    """What `remember_area` noted, whether it still exists or not; sorted."""
    try:
        names = os.listdir(_places(state_directory))
    except FileNotFoundError:
        return []
    contents = [_read_json(os.path.join(_places(state_directory), name)) for name in names if name.endswith(_SUFFIX)]
    return sorted(os.fsencode(content["path"]) for content in contents if content and "path" in content)


def leftovers(area: bytes) -> List[bytes]:
    """Clones, states and spools in an area: paths that exist, sorted."""
    left: List[bytes] = []
    for part in (b"clones", b"states", b"tmp", b"replicas", b"beginning"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            left += [os.path.join(area, part, name) for name in os.listdir(os.path.join(area, part))]
    return sorted(left)


def _registry(state_directory: bytes) -> bytes:
    return os.path.join(state_directory, b"volumes")


def _places(state_directory: bytes) -> bytes:
    return os.path.join(state_directory, b"places")


def _note_path(state_directory: bytes, path: bytes) -> bytes:
    return os.path.join(_places(state_directory), hashlib.sha256(path).hexdigest()[:32].encode() + _SUFFIX)


def _entry_path(state_directory: bytes, uuid: str, *, forgotten: bool = False) -> bytes:
    if not uuid.replace("-", "").isalnum():
        raise AgentError("a volume's uuid has a form that no voltool gives it")
    name = uuid.encode() + (_FORGOTTEN if forgotten else b"") + _SUFFIX
    return os.path.join(_registry(state_directory), name)


def _read_json(path: bytes) -> Optional[Dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _read_entry(path: bytes) -> Optional[RegistryEntry]:
    content = _read_json(path)
    try:
        if content is None or content["format"] != _FORMAT:
            return None
        return RegistryEntry(
            uuid=str(content["uuid"]),
            path=os.fsencode(content["path"]),
            area=os.fsencode(content["area"]),
            forgotten=path.endswith(_FORGOTTEN + _SUFFIX),
        )
    except (KeyError, TypeError):
        return None


def read_record(area: bytes) -> Optional[VolumeRecord]:
    """The record in an area; None where there is none that can be read."""
    content = _read_json(os.path.join(area, RECORD_NAME))
    if content is None or content.get("format") != _FORMAT:
        return None
    try:
        record: VolumeRecord = from_plain(VolumeRecord, content.get("record"))
    except AgentError:
        return None
    return record


def _make_own_directory(path: bytes) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
        durable.fsync_directory(os.path.dirname(path))
    check_own_directory(path)


def check_own_directory(path: bytes) -> None:
    """Raise RefusedError unless the directory is ours and closed to others; OSError where it is not there.

    `.voltool` may lie in a directory where others write, who could have made one for us.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        why = "it is not a directory"
    elif status.st_uid != os.geteuid():
        why = f"it belongs to user {status.st_uid}"
    elif status.st_mode & 0o077:
        why = f"others may use it (mode {stat.S_IMODE(status.st_mode):o})"
    else:
        return
    raise RefusedError(
        "the place for voltool's records is not voltool's alone",
        where=shown(path),
        why=why,
        remedy="find out who made it; then remove it, or give it to the user voltool runs as with mode 0700",
    )


@contextlib.contextmanager
def _rights(path: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            "voltool cannot keep its records beside the volume",
            where=shown(error.filename if isinstance(error.filename, bytes) else path),
            why=error.strerror or str(error),
            remedy="run voltool there as root: log in as root, or set become = true for the host and allow sudo",
        ) from error


def _not_found(what: str, where: str, why: str) -> NotFoundError:
    return NotFoundError(
        what,
        where=where,
        why=why,
        remedy="voltool volume add NAME HOST:/path, if its tree is there;"
        " voltool volume set NAME --host HOST --path /path, if it is elsewhere",
    )
