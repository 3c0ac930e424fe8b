"""Memory in huge pages (ADR 0022): a row reads all weights once, and the processor looks up where each page lies.

Linux hands huge pages out at the first touch, and on most distributions only where a program has asked for them before
(`transparent_hugepage/enabled` says `madvise`), which llama.cpp does not. MADV_COLLAPSE (Linux 6.1) moves what is there
already, but no file that is mapped.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Iterator
from pathlib import Path

_PAGE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_COLLAPSE = 25
"""MADV_COLLAPSE of linux/mman.h, which Python's mmap does not name yet."""
_MOST_PAGE_BYTES = 32 << 20
"""Where pages are 64 kB, huge ones are 512 MB: nothing to fill for a few layers."""
_LEAST_BYTES = 16 << 20
"""Mappings below are stacks of threads and odds and ends; and only what has been touched is moved, so nothing grows."""


@functools.cache
def page_bytes() -> int:
    """Return the size of a huge page, 0 where this kernel moves nothing into them."""
    try:
        size = int(_PAGE.read_text())
        if size > _MOST_PAGE_BYTES:
            return 0
        with mmap.mmap(-1, 2 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as scratch:
            scratch.write(bytes(2 * size))
            scratch.madvise(_COLLAPSE)
    except OSError:
        return 0
    return size


def collapse() -> None:
    """Move the large private mappings of this process into huge pages; what cannot be moved stays where it is."""
    size = page_bytes()
    if not size:
        return
    system = ctypes.CDLL(None)
    is_there = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    for start, end in _large_mappings():
        for address in range(-(-start // size) * size, end - size + 1, size):
            place, length = ctypes.c_void_p(address), ctypes.c_size_t(size)
            if system.mincore(place, length, is_there) == 0 and all(is_there):
                system.madvise(place, length, _COLLAPSE)


def _large_mappings() -> Iterator[tuple[int, int]]:
    """Yield first address and end of mappings that are writable and no file's, the heap among them.

    Up to 32 MB glibc may take from the heap what it would map otherwise, once it has seen such a piece freed.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, *rest = line.split()
        start, end = (int(address, 16) for address in addresses.split("-"))
        is_memory = len(rest) == 3 or rest[3] == "[heap]"
        if is_memory and permissions == "rw-p" and end - start >= _LEAST_BYTES:
            yield start, end
