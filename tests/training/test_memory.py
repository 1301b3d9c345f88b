"""What a step of training frees is there for the next one."""

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from training.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    return sum(float(torch.ones(2**24).sum()) for _ in range(8))  # 64 MiB each time: 16,384 pages
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such calls")
def test_freed_memory_is_used_again() -> None:
    """Large tensors of a later step take few new pages from the system; left alone they take all of them."""

    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, check=True).stdout)

    assert faults("kept") < 0.5 * faults("left alone")
