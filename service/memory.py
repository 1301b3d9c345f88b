"""The C library's memory. glibc alone has these calls; elsewhere nothing happens."""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
# A picture of the usual size stays below: its pages are used again at once instead of asked for anew.
_LARGE_BYTES = 4 * 2**20
_UNUSED_BYTES = 8 * 2**20
_PLACES = 2


def keep_large_pieces_apart() -> None:
    """What a large picture takes goes back to the system when it is freed; call this before anything large is taken.

    Left alone glibc learns from the first one to keep such pieces, among small ones that outlive them, in a place for
    each thread: memory then creeps up for as long as large and small pictures come in turn.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE_BYTES)
    _call("mallopt", _M_TRIM_THRESHOLD, _UNUSED_BYTES)
    _call("mallopt", _M_ARENA_MAX, _PLACES)


def give_memory_back() -> None:
    """What engines that are gone have used, which glibc keeps otherwise."""
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library, or none to be named so
        getattr(ctypes.CDLL(None), function)(*arguments)
