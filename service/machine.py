"""What this process computes on: a choice that was measured on one machine is no choice for another."""

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

_PROCESSORS = Path("/proc/cpuinfo")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000": microseconds of processor time in each period, or "max"
_TOLD = ("model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part")  # x86, then ARM


@dataclass(frozen=True)
class Machine:
    """Two equal ones run the same graph equally fast."""

    processor: str
    cores: int
    onnxruntime: str


def this_machine() -> Machine:
    """As this process sees it now: with the cores that it may use, not those that there are."""
    return Machine(_processor(_PROCESSORS), available_cores(_QUOTA), onnxruntime.__version__)


def available_cores(quota: Path) -> int:
    """Cores by the process's affinity, less what a container's `quota` (the file cpu.max of its cgroup) takes away."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text().split()
        return max(1, min(cores, math.ceil(int(allowed) / int(period))))
    except (OSError, ValueError):  # no such file outside Linux; "max" where nothing is taken away
        return cores


def _processor(description: Path) -> str:
    """Name and generation: virtual machines often hide the former ("Intel(R) Xeon(R) Processor")."""
    try:
        first = description.read_text().strip().partition("\n\n")[0]
    except OSError:
        return platform.processor() or platform.machine()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    return ", ".join(f"{name} {told[name]}" for name in _TOLD if name in told) or platform.machine()
