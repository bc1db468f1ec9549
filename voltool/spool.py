"""Sorted spools: more records than memory holds, read back in byte order. Ships to servers.

Records are added in any order, sorted in runs, written to one unnamed temporary file and merged as streams. Memory stays
near ``run_bytes`` however many records there are. Knows nothing of what the records mean.
"""

from __future__ import annotations

import heapq
import os
import struct
import tempfile
from types import TracebackType
from typing import IO, Iterable, Iterator, List, Optional, Tuple, Type

_LENGTH = struct.Struct(">I")
#: What a record costs in memory beside its bytes (object header and list slot).
_OVERHEAD = 60
DEFAULT_RUN_BYTES = 24 << 20
_READ = 256 << 10


class SortedSpool:
    """Add records, then iterate over them in byte order, as often as wanted. Close it, or use it as a context."""

    def __init__(self, directory: bytes, run_bytes: int = DEFAULT_RUN_BYTES) -> None:
        self.directory = directory
        self._run_bytes = run_bytes
        self._records: List[bytes] = []
        self._size = 0
        self._file: Optional[IO[bytes]] = None
        self._runs: List[Tuple[int, int]] = []
        self._sorted = True
        self.count = 0

    def add(self, record: bytes) -> None:
        """Add one record."""
        self._records.append(record)
        self._sorted = False
        self.count += 1
        self._size += len(record) + _OVERHEAD
        if self._size >= self._run_bytes:
            self._spill()

    def add_many(self, records: List[bytes]) -> None:
        """Add a batch of records (cheaper than one by one)."""
        self._records += records
        self._sorted = False
        self.count += len(records)
        self._size += sum(map(len, records)) + _OVERHEAD * len(records)
        if self._size >= self._run_bytes:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - closed by close()
                dir=os.fsdecode(self.directory), buffering=1 << 20
            )
        self._records.sort()
        file = self._file
        start = file.seek(0, os.SEEK_END)
        pack = _LENGTH.pack
        for at in range(0, len(self._records), 4096):
            batch = self._records[at : at + 4096]
            file.write(b"".join([part for record in batch for part in (pack(len(record)), record)]))
        file.flush()
        self._runs.append((start, file.tell()))
        self._records = []
        self._size = 0
        self._sorted = True

    def __iter__(self) -> Iterator[bytes]:
        if not self._sorted:
            self._records.sort()
            self._sorted = True
        if not self._runs:
            return iter(self._records)
        streams: List[Iterable[bytes]] = [self._read_run(start, end) for start, end in self._runs]
        streams.append(self._records)
        return heapq.merge(*streams)

    def _read_run(self, start: int, end: int) -> Iterator[bytes]:
        assert self._file is not None
        descriptor = self._file.fileno()
        rest = b""
        while start < end:
            block = os.pread(descriptor, min(_READ, end - start), start)
            start += len(block)
            buffer = rest + block
            position = 0
            while position + 4 <= len(buffer):
                (length,) = _LENGTH.unpack_from(buffer, position)
                if position + 4 + length > len(buffer):
                    break
                yield buffer[position + 4 : position + 4 + length]
                position += 4 + length
            rest = buffer[position:]

    def close(self) -> None:
        """Free memory and disk; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._records = []
        self._runs = []

    def __enter__(self) -> SortedSpool:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], value: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()
