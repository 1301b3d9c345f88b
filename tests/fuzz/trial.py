"""A trial: mutants go through a judge in the threads of a process of its own, and are watched from outside it.

So a crash of native code, a thread that never comes back and memory that balloons are all seen, with the number of the
mutant that did it.
"""

import multiprocessing
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock

from tests.fuzz.judges import PIXEL_LIMIT, AnswerJudge, FaultError, Judge, judge_decoding
from tests.fuzz.mutations import mutant

# Measured: the hungriest format needs less for each pixel while it is decoded. Plus the process itself.
BYTES_PER_PIXEL = 24
_PROCESS_BYTES = 400 * 2**20


@dataclass(frozen=True)
class Trial:
    """`url` of a running service, or None for the decoder alone. `watched_pid`: whose memory counts; 0: the trial's."""

    seed: int
    numbers: range
    threads: int
    wall_limit_seconds: float
    url: str | None = None
    watched_pid: int = 0

    @property
    def memory_limit_bytes(self) -> int:
        """Each thread may decode a picture of the largest permitted size at the same moment."""
        return _PROCESS_BYTES + self.threads * BYTES_PER_PIXEL * PIXEL_LIMIT


@dataclass
class Findings:
    """What came out; no `faults` is a pass."""

    results: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    peak_bytes: int = 0

    @property
    def pictures(self) -> int:
        """Judged so far, with whatever result."""
        return sum(self.results.values())


@dataclass(frozen=True)
class _Begun:
    number: int


@dataclass(frozen=True)
class _Ended:
    number: int
    result: str
    seconds: float
    fault: str | None = None


def run(trial: Trial) -> Iterator[Findings]:
    """The findings, again and again while they grow; the last ones are complete."""
    context = multiprocessing.get_context("spawn")
    events, sender = context.Pipe(duplex=False)
    process = context.Process(target=_judge_all, args=(trial, sender), daemon=True)
    process.start()
    sender.close()
    findings, running = Findings(), {}
    try:
        for event in _events(events):
            if isinstance(event, _Begun):
                running[event.number] = time.monotonic()
            elif isinstance(event, _Ended):
                del running[event.number]
                _note(findings, event)
            if event is None or findings.pictures % 200 == 0:
                _check_memory(findings, trial, trial.watched_pid or process.pid or 0)
                yield findings
            if stuck := [n for n, at in running.items() if time.monotonic() - at > trial.wall_limit_seconds]:
                findings.faults.append(f"pictures {stuck} hang: no end after {trial.wall_limit_seconds:g} s")
                break
        else:
            process.join(60)
            if process.exitcode != 0:
                findings.faults.append(f"the process died with {process.exitcode} during pictures {sorted(running)}")
    finally:
        process.kill()
        process.join()
    yield findings


def _events(connection: Connection) -> Iterator[_Begun | _Ended | None]:
    """Until the other side is closed; None when nothing happens for a while."""
    while True:
        try:
            yield connection.recv() if connection.poll(1.0) else None
        except EOFError:
            return


def _note(findings: Findings, ended: _Ended) -> None:
    findings.results[ended.result] += 1
    findings.slowest = max(findings.slowest, (ended.seconds, ended.number))
    if ended.fault:
        findings.faults.append(f"picture {ended.number}: {ended.fault}")


def _check_memory(findings: Findings, trial: Trial, pid: int) -> None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # gone, or a system without /proc
        return
    peaks = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    findings.peak_bytes = max(findings.peak_bytes, *peaks) if peaks else findings.peak_bytes
    if findings.peak_bytes > trial.memory_limit_bytes and not any("memory" in fault for fault in findings.faults):
        findings.faults.append(f"memory {findings.peak_bytes >> 20} MiB; limit {trial.memory_limit_bytes >> 20} MiB")


def _judge_all(trial: Trial, sender: Connection) -> None:
    """In the trial's own process."""
    warnings.filterwarnings("ignore", module="PIL")  # as in the service
    judge: Judge = AnswerJudge(trial.url, trial.wall_limit_seconds) if trial.url else judge_decoding
    lock = Lock()

    def send(event: _Begun | _Ended) -> None:
        with lock:
            sender.send(event)

    def judge_one(numbers: Iterable[int]) -> None:
        for number in numbers:
            picture = mutant(trial.seed, number)
            send(_Begun(number))
            started = time.monotonic()
            try:
                result, fault = judge(picture.body), None
            except FaultError as error:
                result, fault = "fault", f"({picture.name}) {error}"
            send(_Ended(number, result, time.monotonic() - started, fault))

    with ThreadPoolExecutor(trial.threads) as threads:
        list(threads.map(judge_one, (trial.numbers[first :: trial.threads] for first in range(trial.threads))))
