"""What is taken for one large picture goes back to the system with it."""

import ctypes
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LARGE, LARGER = 8 * 2**20, 16 * 2**20
PROGRAM = f"""
import ctypes, sys
from service.memory import keep_large_pieces_apart

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd rest a b c d".split()]

c = ctypes.CDLL(None)
c.mallinfo2.restype, c.malloc.restype, c.free.argtypes = Info, ctypes.c_void_p, [ctypes.c_void_p]
if "apart" in sys.argv:
    keep_large_pieces_apart()
c.free(c.malloc({LARGER}))  # glibc learns from it, if it may
before = c.mallinfo2().hblkhd
c.malloc({LARGE})
print(c.mallinfo2().hblkhd - before)
"""


def bytes_apart(*words: str) -> int:
    """How much of a large piece lies in pages of its own, after a larger one was freed."""
    told = subprocess.run([sys.executable, "-c", PROGRAM, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc's mallinfo2")
def test_large_pieces_have_pages_of_their_own() -> None:
    """They go back when they are freed, also after a larger one; left alone they would not."""
    assert bytes_apart("apart") >= LARGE
    assert bytes_apart() == 0
