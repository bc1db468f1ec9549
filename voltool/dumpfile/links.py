"""Which objects of a chain have several names, and how many. Part of what is shipped to servers.

No record has a link count: names are counted, in one pass over the entries with a bit an object, and then those few that were
seen twice once more. Memory follows the number of objects with several names.
"""

from __future__ import annotations

from typing import Dict, Set

from voltool.dumpfile import format as fmt
from voltool.dumpfile.bitmap import Bitmap
from voltool.dumpfile.chain import Chain


def count_links(chain: Chain) -> Dict[int, int]:
    """Object number → how many names it has, of those with more than one. Raises IntegrityError."""
    seen = Bitmap()
    counts: Dict[int, int] = {}
    for reader in chain.readers:
        for record in reader.records(fmt.ENTRIES):
            number = int.from_bytes(record[-8:], "big")
            if number and not seen.add(number):
                counts[number] = counts.get(number, 1) + 1
    if len(chain.readers) == 1 or not counts:
        return counts
    return _still_there(chain, counts)


def _still_there(chain: Chain, candidates: Dict[int, int]) -> Dict[int, int]:
    """Of a chain the same name may have been seen in several dumps, and names that are gone."""
    keys: Set[bytes] = set()
    for reader in chain.readers:
        for record in reader.records(fmt.ENTRIES):
            if int.from_bytes(record[-8:], "big") in candidates:
                keys.add(record[:-8])
    counts: Dict[int, int] = {}
    for key in sorted(keys):
        for _name, number in chain.entries_of(int.from_bytes(key[:8], "big"), key[8:-1]):
            counts[number] = counts.get(number, 0) + 1
    return {number: count for number, count in counts.items() if count > 1}
