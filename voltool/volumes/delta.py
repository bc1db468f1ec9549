"""What a btrfs send stream changed, as inode numbers: the stream is played on a picture of the base. Ships to servers.

Paths in a stream hold for the moment of their command: in between, objects have temporary names, directories move with
all that is in them, two names are swapped. So nothing is guessed from a path afterwards. The picture begins as the base
(names are looked up there when first needed), follows every creation, link, rename and removal, and thus knows at each
moment which inode a path means. A path that it cannot resolve means that we do not understand the stream, and
`UnexpectedStream` is raised: the caller compares the trees instead. Knows nothing of ioctls.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Protocol, Set, Tuple

from voltool.volumes.contract import MOST_TIMED, ByteRange
from voltool.volumes.send_stream import Attribute, Command, Kind, UnexpectedStream

#: Beyond this many objects in the picture (some 1.2 KB each) scanning and comparing is no slower, and flat.
MAX_NODES = 60_000
#: Beyond this many ranges a file counts as changed anywhere.
_MAX_RANGES = 65_536

_CREATIONS = frozenset({Kind.MKFILE, Kind.MKDIR, Kind.MKNOD, Kind.MKFIFO, Kind.MKSOCK, Kind.SYMLINK})
_ATTRIBUTES = frozenset({Kind.SET_XATTR, Kind.REMOVE_XATTR, Kind.CHMOD, Kind.CHOWN})


class BaseTree(Protocol):
    """The base snapshot, by path."""

    def inode(self, path: bytes) -> Optional[int]:
        """The inode number of ``path`` (relative; not followed), None where it is not there. Raises OSError."""


class Node:
    """One object of the picture. ``base`` is a path it has in the base (None: created since)."""

    __slots__ = ("base", "changed", "children", "inode", "links", "ranges", "timed", "truncated")

    def __init__(self, inode: int, base: Optional[bytes]) -> None:
        self.inode = inode
        self.base = base
        self.changed = False
        #: Its times were set; alone, that is no change.
        self.timed = False
        self.children: Dict[bytes, Optional[Node]] = {}
        self.links: Set[Tuple[Node, bytes]] = set()
        #: changed byte ranges; None: anything may have changed
        self.ranges: Optional[List[Tuple[int, int]]] = []
        #: the smallest size it was cut to or given meanwhile
        self.truncated: Optional[int] = None

    def add_range(self, offset: int, length: int) -> None:
        """Note that bytes may differ; neighbours are joined."""
        if self.ranges is None or not length:
            return
        if self.ranges and self.ranges[-1][0] <= offset <= sum(self.ranges[-1]):
            start, old = self.ranges[-1]
            self.ranges[-1] = (start, max(old, offset + length - start))
        elif len(self.ranges) >= _MAX_RANGES:
            self.ranges = None
        else:
            self.ranges.append((offset, length))


class Delta:
    """Plays the commands of one stream. ``root`` is the inode number of both snapshots' roots; ``most_timed``: see
    `contract.Driver.changes`."""

    def __init__(self, base: BaseTree, root: int, most_timed: int = MOST_TIMED) -> None:
        self._base = base
        self._root = Node(root, b"")
        self._base_nodes: Dict[int, Node] = {root: self._root}
        self._created: List[Node] = []
        self._begun = False
        self._most_timed = most_timed
        self._timed = 0

    def play(self, command: Command) -> None:
        """Take the next command. Raises UnexpectedStream."""
        kind = command.kind
        if not self._begun:
            if kind is not Kind.SNAPSHOT:
                raise UnexpectedStream("the stream is not relative to a parent")
            self._begun = True
        elif kind in _CREATIONS:
            self._create(command)
        elif kind in _ATTRIBUTES:
            self._find(command.path()).changed = True
        elif kind is Kind.UTIMES:
            self._set_times(command.path())
        elif kind in (Kind.RENAME, Kind.LINK, Kind.UNLINK, Kind.RMDIR):
            self._change_names(command)
        elif kind is not Kind.END:
            self._change_content(command)

    def changed(self) -> Iterator[Node]:
        """The objects that some command was about, the removed ones too."""
        for node in self._base_nodes.values():
            if node.changed or node.timed:
                yield node
        yield from self._created

    def is_new(self, node: Node) -> bool:
        """Whether the object was not in the base."""
        return node.base is None

    def path(self, node: Node) -> Optional[bytes]:
        """A current path of the object as far as the picture knows one: None for a removed one, and for one whose
        remaining names were never mentioned."""
        parts: List[bytes] = []
        while node is not self._root:
            if not node.links or len(parts) > 4096:
                return None
            node, name = next(iter(node.links))
            parts.append(name)
        return b"/".join(reversed(parts))

    # -------------------------------------------------------------------------------------------------- commands

    def _set_times(self, path: bytes) -> None:
        node = self._find(path)
        self._timed += not node.timed
        node.timed = True
        if self._timed > self._most_timed:
            raise UnexpectedStream("the times of too many were set")

    def _create(self, command: Command) -> None:
        node = Node(command.number(Attribute.INO), None)
        node.changed = True
        node.ranges = None
        self._created.append(node)
        self._limit()
        self._attach(node, command.path())

    def _change_names(self, command: Command) -> None:
        path = command.path()
        if command.kind is Kind.LINK:
            node = self._find(command.path(Attribute.PATH_LINK))
            self._attach(node, path)
        elif command.kind is Kind.RENAME:
            node = self._detach(path)
            self._attach(node, command.path(Attribute.PATH_TO))
        else:
            node = self._detach(path)
        node.changed = True

    def _change_content(self, command: Command) -> None:
        node = self._find(command.path())
        node.changed = True
        if command.kind is Kind.TRUNCATE:
            size = command.number(Attribute.SIZE)
            node.truncated = size if node.truncated is None else min(size, node.truncated)
            return
        offset = command.number(Attribute.FILE_OFFSET)
        if command.kind is Kind.WRITE:
            node.add_range(offset, command.data_length())
        elif command.kind is Kind.UPDATE_EXTENT:
            node.add_range(offset, command.number(Attribute.SIZE))
        elif command.kind is Kind.CLONE:
            node.add_range(offset, command.number(Attribute.CLONE_LEN))
        else:
            raise UnexpectedStream(f"a second {command.kind.name} in one stream")

    # ------------------------------------------------------------------------------------------------- the picture

    def _find(self, path: bytes) -> Node:
        node = self._root
        for name in path.split(b"/") if path else ():
            node = self._child(node, name)
        return node

    def _child(self, node: Node, name: bytes) -> Node:
        child = node.children[name] if name in node.children else self._look_up(node, name)
        if child is None:
            raise UnexpectedStream("the stream names something that is not there")
        return child

    def _look_up(self, node: Node, name: bytes) -> Optional[Node]:
        if node.base is None:
            return None
        path = node.base + b"/" + name if node.base else name
        try:
            inode = self._base.inode(path)
        except OSError as error:
            raise UnexpectedStream(f"the base cannot be read: {error.strerror}") from error
        if inode is None:
            return None
        child = self._base_nodes.get(inode)
        if child is None:
            child = self._base_nodes[inode] = Node(inode, path)
            self._limit()
        node.children[name] = child
        child.links.add((node, name))
        return child

    def _attach(self, node: Node, path: bytes) -> None:
        directory, name = self._split(path)
        # A rename over an existing object: the kernel never sends one, it moves the old one away first.
        if directory.children.get(name) is not None or (
            name not in directory.children and self._look_up(directory, name) is not None
        ):
            raise UnexpectedStream("the stream replaces a name that is in use")
        directory.children[name] = node
        directory.changed = True
        node.links.add((directory, name))

    def _detach(self, path: bytes) -> Node:
        directory, name = self._split(path)
        node = self._child(directory, name)
        directory.children[name] = None
        directory.changed = True
        node.links.discard((directory, name))
        return node

    def _split(self, path: bytes) -> Tuple[Node, bytes]:
        parent, _slash, name = path.rpartition(b"/")
        if not name:
            raise UnexpectedStream("a command about the names of the root itself")
        return self._find(parent), name

    def _limit(self) -> None:
        if len(self._base_nodes) + len(self._created) > MAX_NODES:
            raise UnexpectedStream("too much has changed")


def ranges_of(node: Node, old_size: int, new_size: int) -> Optional[List[ByteRange]]:
    """Which bytes of a file that was in the base may differ; sorted and disjoint, cut at ``new_size``; None: any."""
    if node.ranges is None:
        return None
    ranges = list(node.ranges)
    sizes = [size for size in (old_size, new_size, node.truncated) if size is not None]
    if min(sizes) < new_size:
        ranges.append((min(sizes), new_size - min(sizes)))
    merged: List[ByteRange] = []
    for offset, length in sorted(ranges):
        end = min(offset + length, new_size)
        if merged and offset <= merged[-1].offset + merged[-1].length:
            last = merged[-1]
            merged[-1] = ByteRange(last.offset, max(last.length, end - last.offset))
        elif end > offset:
            merged.append(ByteRange(offset, end - offset))
    return merged
