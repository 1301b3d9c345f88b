"""The ceiling: decodes, resizes and infers the same pictures without HTTP. Prints one JSON object.

usage: bare_loop.py PICTURES SECONDS MODE WORKERS
PICTURES is a folder of JPEG files; MODE is threads, processes, or answers (all pictures once, in order of their names).
"""

import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from loadtests.peers.servers.lesion import Lesion, settings

WARM_UP_PICTURES = 5


class Barrier(Protocol):
    """Of threads or of processes: nobody measures before all are warm."""

    def wait(self) -> int:
        """Return once all have called it."""


barrier: Barrier  # of a process: it can be given one only at its start


def loop(lesion: Lesion, bodies: Sequence[bytes], first: int, together: Barrier, seconds: float) -> list[float]:
    """Pictures one after the other for `seconds`; how long each took, in seconds."""
    for number in range(WARM_UP_PICTURES):
        lesion.predict(bodies[number % len(bodies)])
    together.wait()
    took = []
    number, now = first, time.perf_counter()
    ends_at = now + seconds
    while now < ends_at:
        lesion.predict(bodies[number % len(bodies)])
        started, now = now, time.perf_counter()
        took.append(now - started)
        number += 1
    return took


def keep(together: Barrier) -> None:
    """The initialiser of a process."""
    global barrier
    barrier = together


def loop_in_process(bodies: Sequence[bytes], first: int, seconds: float) -> list[float]:
    """The same with a network of its own."""
    return loop(Lesion(settings()), bodies, first, barrier, seconds)


def run(bodies: Sequence[bytes], seconds: float, mode: str, workers: int) -> dict[str, float]:
    """`workers` loops at once; pictures a second of all and the time of one picture."""
    if mode == "threads":
        lesion, together, threads = Lesion(settings()), threading.Barrier(workers), ThreadPoolExecutor(workers)
        runs = [threads.submit(loop, lesion, bodies, first, together, seconds) for first in range(workers)]
    else:
        spawn = multiprocessing.get_context("spawn")
        processes = ProcessPoolExecutor(workers, spawn, initializer=keep, initargs=(spawn.Barrier(workers),))
        runs = [processes.submit(loop_in_process, bodies, first, seconds) for first in range(workers)]
    took = [run.result() for run in runs]
    pictures = [one for loop_took in took for one in loop_took]
    return {
        "pictures_per_second": sum(len(t) / sum(t) for t in took),
        "picture_p50_seconds": float(np.percentile(pictures, 50)),
        "picture_p99_seconds": float(np.percentile(pictures, 99)),
    }


def main() -> None:
    """As the text above says."""
    folder, seconds, mode, workers = sys.argv[1:]
    bodies = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]
    if mode == "answers":
        lesion = Lesion(settings())
        print(json.dumps([lesion.predict(body)["probabilities"] for body in bodies]))  # noqa: T201 - it is its output
    else:
        print(json.dumps(run(bodies, float(seconds), mode, int(workers))))  # noqa: T201


if __name__ == "__main__":
    main()
