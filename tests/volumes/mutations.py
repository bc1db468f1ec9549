"""Random operations on a tree: everything that could fool a search for changes."""

from __future__ import annotations

import mmap
import os
import random
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

from voltool.dumpfile import format as fmt
from voltool.inodes import set_flags


class Mutator:
    """Does random operations below ``root``; what a file system refuses is skipped."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.count = 0
        self.done: list[str] = []

    def run(self, steps: int) -> None:
        for _step in range(steps):
            operation = self.random.choice(OPERATIONS)
            try:
                operation(self)
            except OSError:
                continue
            self.done.append(operation.__name__)

    # ------------------------------------------------------------------------------------------------- choosing

    def new_name(self) -> str:
        self.count += 1
        # names that come again, and names that look like the kernel's own temporary ones
        return self.random.choice([f"n{self.random.randrange(12)}", f"new{self.count}", f"o{self.count + 256}-7-0"])

    def everything(self, test: Callable[[os.stat_result], bool]) -> list[Path]:
        found = []
        for directory, names, files in os.walk(self.root):
            if ".voltool" in names:
                names.remove(".voltool")
            paths = [Path(directory, name) for name in names + files]
            found += [path for path in paths if test(path.lstat())]
        return sorted(found)

    def directory(self) -> Path:
        return self.random.choice([self.root, *self.everything(lambda status: stat.S_ISDIR(status.st_mode))])

    def file(self) -> Path:
        return self._one(lambda status: stat.S_ISREG(status.st_mode))

    def any(self) -> Path:
        return self._one(lambda _status: True)

    def _one(self, test: Callable[[os.stat_result], bool]) -> Path:
        found = self.everything(test)
        if not found:
            raise FileNotFoundError
        return self.random.choice(found)

    def fresh(self) -> Path:
        return self.directory() / self.new_name()

    def bytes(self, most: int = 20000) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 100, 4096, self.random.randrange(most)]))

    # ----------------------------------------------------------------------------------------------- operations

    def create(self) -> None:
        path = self.fresh()
        with open(path, "xb") as file:
            if self.random.random() < 0.2:
                set_flags(file.fileno(), fmt.FLAG_NOCOW, fmt.FLAG_NOCOW)
            file.write(self.bytes(200_000))

    def make_directory(self) -> None:
        self.fresh().mkdir()

    def make_special(self) -> None:
        kind = self.random.choice([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK])
        os.mknod(self.fresh(), kind | 0o640, os.makedev(7, self.random.randrange(9)))

    def symlink(self) -> None:
        self.fresh().symlink_to(self.new_name())

    def link(self) -> None:
        os.link(self.any(), self.fresh(), follow_symlinks=False)

    def write(self) -> None:
        with open(self.file(), "r+b") as file:
            file.seek(self.random.randrange(100_000))
            file.write(self.bytes())

    def write_mapped(self) -> None:
        path = self._one(lambda status: stat.S_ISREG(status.st_mode) and status.st_size > 0)
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            at = self.random.randrange(len(mapping))
            mapping[at] = (mapping[at] + 1) % 256

    def truncate(self) -> None:
        os.truncate(self.file(), self.random.choice([0, 1, 4096, 100, 50_000, 300_000]))

    def cut_and_grow(self) -> None:
        path = self.file()
        size = path.stat().st_size
        os.truncate(path, self.random.randrange(size + 1))
        os.truncate(path, size)

    def allocate(self) -> None:
        mode = self.random.choice(
            ["--keep-size", "--punch-hole", "--zero-range", "--collapse-range", "--insert-range", "--posix"]
        )
        offset, length = self.random.randrange(20) * 4096, self.random.choice([4096, 8192, 100_000, 5])
        command = ["fallocate", mode, "-o", str(offset), "-l", str(length), str(self.file())]
        subprocess.run(command, check=False, capture_output=True)

    def clone_range(self) -> None:
        command = ["cp", "--reflink=always", str(self.file()), str(self.file())]
        subprocess.run(command, check=False, capture_output=True)

    def chmod(self) -> None:
        self.any().chmod(self.random.choice([0o600, 0o755, 0o4755, 0o1777]), follow_symlinks=True)

    def chown(self) -> None:
        os.chown(self.any(), self.random.randrange(5), self.random.randrange(5), follow_symlinks=False)

    def set_times(self) -> None:
        moment = self.random.randrange(2**31) * 10**9
        os.utime(self.any(), ns=(moment, moment), follow_symlinks=False)

    def set_xattr(self) -> None:
        name = self.random.choice(["user.a", "user.b", "trusted.c", "security.d"])
        os.setxattr(self.any(), name, self.bytes(500), follow_symlinks=False)

    def remove_xattr(self) -> None:
        path = self.any()
        os.removexattr(path, self.random.choice(os.listxattr(path) or ["user.none"]))

    def change_flags(self) -> None:
        descriptor = os.open(self.file(), os.O_RDONLY)
        try:
            flag = self.random.choice([fmt.FLAG_NODUMP, fmt.FLAG_NOATIME, fmt.FLAG_SYNC, fmt.FLAG_COMPR])
            set_flags(descriptor, self.random.choice([0, flag]), flag)
        finally:
            os.close(descriptor)

    def rename(self) -> None:
        self.any().rename(self.fresh())

    def rename_over(self) -> None:
        self.file().rename(self.file())

    def swap(self) -> None:
        one, other = self.any(), self.any()
        if one == other or one in other.parents or other in one.parents:
            return
        temporary = self.root / "swap-temporary"
        one.rename(temporary)
        other.rename(one)
        temporary.rename(other)

    def rename_back_and_forth(self) -> None:
        path = self.any()
        temporary = self.fresh()
        path.rename(temporary)
        temporary.rename(path)

    def replace_file_by_directory(self) -> None:
        path = self.file()
        path.unlink()
        path.mkdir()

    def turn_inside_out(self) -> None:
        """a/b becomes b/a: the child becomes the parent of its parent."""
        child = self.directory()
        parent = child.parent
        if self.root in (child, parent):
            return
        name = parent.name
        moved = parent.parent / f"inside-out-{self.new_name()}"
        child.rename(moved)
        parent.rename(moved / name)

    def remove(self) -> None:
        path = self.any()
        if path.is_dir() and not path.is_symlink():
            subprocess.run(["rm", "-rf", str(path)], check=True)
        else:
            path.unlink()

    def remove_and_make_again(self) -> None:
        path = self.file()
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)

    def sync(self) -> None:
        os.sync()


OPERATIONS: list[Callable[[Mutator], None]] = [
    value for name, value in vars(Mutator).items()
    if callable(value) and not name.startswith("_")
    and name not in {"run", "new_name", "everything", "directory", "file", "any", "fresh", "bytes"}
]  # fmt: skip
