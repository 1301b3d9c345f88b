"""Swaps between two versions under load: no failed request, no mixed answer, no memory kept.

    python -m tests.swaps --swaps 500

Starts a service on a store of its own with two versions of different answers, loads it with `python -m loadtests` at a
share of its capacity, promotes one version and the other in turn with a reload each, and asks meanwhile for pictures
whose answers by either version are known to the last bit. Exit code 1 when an answer failed or was mixed. Timings are
worth what the machine is: run it alone. Its speed changes from minute to minute, so the seconds of a swap are compared
with those between that swap and the next one.
"""

import argparse
import asyncio
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from model_store.contract.golden import GoldenAnswers, GoldenVectors, preprocess_encoded, read_golden, write_golden
from model_store.store import PRODUCTION, SHIPPED, ModelStore, ModelVersion
from service.engine import Engine
from service.follower import KEPT_SECONDS
from tests.conftest import ROOT, RunningService, encoded, lesion_picture, running_service
from tests.service.stand_ins import graph, publish

TOKEN = "a-token-for-the-swaps"
_PROBES_PER_SECOND = 10.0
_SWAP_SECONDS = 1.0  # from the command on: what happens in it counts as in a swap
_SETTLED_SECONDS = 3.0  # after the command: what a swap leaves to do is done, and what happens counts as steady
# The server closes what was idle for five seconds; a request that is just then put on it would be the client's fault.
_LIMITS = httpx.Limits(keepalive_expiry=1.0)
Expected = dict[tuple[str, str], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class Plan:
    """How much of what. `rate_per_second` of the load is measured when it is None; with 0 there is none but probes.

    `standby`: the version that served before stays loaded. `rest_seconds` go by, under the same load, before memory is
    looked at at the end: what is kept for a way back goes meanwhile. It is looked at for `memory_seconds`, as before
    the first swap.
    """

    swaps: int
    steady_seconds: float = 20.0
    interval_seconds: float = 4.0
    share: float = 0.7
    rate_per_second: float | None = None
    deadline_seconds: float = 3.0
    shipped: bool = True
    standby: bool = False
    rest_seconds: float = 0.0
    memory_seconds: float = 0.0


@dataclass(frozen=True)
class Probe:
    """A picture with known answers: when it was due, how long it took, and what was wrong with it."""

    due: float
    seconds: float
    version: str | None
    fault: str | None


@dataclass
class Findings:
    """What became of it; `swaps` are (command, reload answered, first answer of the version seen), in one clock."""

    probes: list[Probe] = field(default_factory=list)
    swaps: list[tuple[float, float, float]] = field(default_factory=list)
    last_compared: float = math.inf  # what is due later, so long after the last swap, is in no phase
    load_report: str = ""
    load_failed: bool = False
    resident_bytes: list[float] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """Of the probes."""
        return [probe.fault for probe in self.probes if probe.fault]

    def seconds_by_phase(self) -> dict[str, NDArray[np.float64]]:
        """Of the probes: in the second after a swap's command, while the rest of its work is done, and between."""
        commands = np.array([command for command, _, _ in self.swaps])
        seconds = np.array([probe.seconds for probe in self.probes])
        ago = np.array([p.due - commands[commands <= p.due].max(initial=-np.inf) for p in self.probes])
        compared = np.array([probe.due <= self.last_compared for probe in self.probes], bool)
        swapping, steady = ago < _SWAP_SECONDS, ago >= _SETTLED_SECONDS
        phases = {"in swap seconds": swapping, "in the two after": ~swapping & ~steady, "in steady ones": steady}
        return {name: seconds[chosen & compared] for name, chosen in phases.items()}


def two_versions(root: Path, *, shipped: bool) -> ModelStore:
    """Versions 1 and 2 with different answers, 1 in production."""
    if not shipped:
        publish(root, {"fp32": graph()})
        return publish(root, {"fp32": graph(seed=1)}, alias=None)
    original, store = ModelStore(SHIPPED).open("lesion7", PRODUCTION), ModelStore(root)
    files = {name: original.read(name) for name in original.manifest.files}
    fields = original.manifest.model_dump(exclude={"version", "schema_version", "files"})
    store.publish(files, fields)
    store.promote("lesion7", "1")
    store.publish(_varied(original, files), fields)
    return store


def _varied(version: ModelVersion, files: dict[str, bytes]) -> dict[str, bytes]:
    """The same networks, more sure of themselves: logits times 1.1; golden answers accordingly."""
    golden, answers, varied = read_golden(files[version.manifest.golden.file]), {}, dict(files)
    for variant, described in version.manifest.variants.items():
        model = onnx.load_from_string(files[described.file])
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1.1), "surer"))
        for softmax in _softmaxes(model.graph, version.manifest.graph.probabilities):
            surer = f"surer_{softmax.input[0]}"
            scale = onnx.helper.make_node("Mul", [softmax.input[0], "surer"], [surer])
            softmax.input[0] = surer
            model.graph.node.insert(list(model.graph.node).index(softmax), scale)
        varied[described.file] = bytes(model.SerializeToString())
        session = onnxruntime.InferenceSession(varied[described.file], providers=["CPUExecutionProvider"])
        answers[variant] = GoldenAnswers(*session.run(["probabilities", "in_distribution"], {"image": golden.tensors}))
    varied[version.manifest.golden.file] = write_golden(GoldenVectors(golden.pictures, golden.tensors, answers))
    return varied


def _softmaxes(graph: onnx.GraphProto, probabilities: str) -> list[onnx.NodeProto]:
    """Those that the probabilities are made of, one or a mixture."""
    made_by, waiting, found = {output: n for n in graph.node for output in n.output}, [probabilities], []
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.op_type == "Softmax":
            found.append(node)
        elif node is not None:
            waiting += node.input
    return found


def expected_answers(store: ModelStore, pictures: list[bytes]) -> Expected:
    """By digest and variant, for each picture."""
    expected: Expected = {}
    for number in store.versions("lesion7"):
        version = store.open("lesion7", number)
        for variant in version.manifest.variants:
            engine = Engine(version, variant)
            tensors = [preprocess_encoded(picture, version.manifest.preprocessing) for picture in pictures]
            expected[version.digest, variant] = [engine.infer(tensor[None]).probabilities[0] for tensor in tensors]
    return expected


def fault_of(answer: httpx.Response, picture: int, expected: Expected) -> str | None:
    """What is wrong with the answer: its status, or that its probabilities are not its version's, bit for bit."""
    if answer.status_code != 200:
        return f"status {answer.status_code}: {answer.text}"
    body = answer.json()
    right = expected.get((body["model"]["digest"], body["model"]["variant"]))
    if right is None:
        return f"an answer of a version that nobody knows: {body['model']}"
    shown = np.array(list(body["probabilities"].values()), np.float32)
    return None if np.array_equal(shown, right[picture]) else f"a mixed answer of version {body['model']['version']}"


async def run(plan: Plan, folder: Path) -> Findings:
    """Everything, in a folder of its own."""
    width, height = (600, 450) if plan.shipped else (200, 150)
    pictures = [encoded(lesion_picture(width, height, seed)) for seed in range(8)]
    store = two_versions(folder / "store", shipped=plan.shipped)
    expected = expected_answers(store, pictures)
    options = ["--store", str(store.root), "--admin-token", TOKEN, "--store-poll-seconds", "0"]
    options += ["--deadline-seconds", str(plan.deadline_seconds)]
    options += ["--also-serve", "previous"] if plan.standby else []
    with running_service(folder / "log", *options) as service:
        rate = _rate(plan, service) if plan.rate_per_second is None else plan.rate_per_second
        found = Findings()
        with _load(plan, rate, service, folder, found), _operator() as operator:
            async with (
                httpx.AsyncClient(base_url=service.url, timeout=60, limits=_LIMITS) as client,
                _probing(client, pictures, expected, found),
            ):
                await asyncio.sleep(plan.steady_seconds)
                found.resident_bytes.append(await _resident_bytes_over(plan.memory_seconds, service))
                for number in range(plan.swaps):
                    await _swap(client, operator, store, "21"[number % 2], pictures[0], expected, found)
                    await asyncio.sleep(plan.interval_seconds)
                await asyncio.sleep(plan.interval_seconds)
                found.last_compared = time.monotonic()
                await asyncio.sleep(plan.rest_seconds)
                found.resident_bytes.append(await _resident_bytes_over(plan.memory_seconds, service))
        return found


def _promote(root: str, version: str) -> None:
    ModelStore(root).promote("lesion7", version)


@contextmanager
def _operator() -> Iterator[Executor]:
    """Who promotes: a process of its own, so that nobody who measures waits for it, and one that yields to callers."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawned, initializer=os.nice, initargs=(10,)) as operator:
        operator.submit(os.getpid).result()  # it has started before anything is measured
        yield operator


async def _swap(
    client: httpx.AsyncClient,
    operator: Executor,
    store: ModelStore,
    version: str,
    picture: bytes,
    expected: Expected,
    found: Findings,
) -> None:
    """The command and the reload call; then ask until the version answers."""
    command = time.monotonic()
    await asyncio.get_running_loop().run_in_executor(operator, _promote, str(store.root), version)
    reload = await client.post("/v1/admin/reload", headers={"Authorization": f"Bearer {TOKEN}"})
    reloaded = time.monotonic()
    fault = None if reload.status_code == 200 else f"reload: {reload.text}"
    answer = await client.post("/v1/predictions", content=picture)
    answered = time.monotonic()
    fault = fault or fault_of(answer, 0, expected)
    if not fault and answer.json()["model"]["version"] != version:
        fault = f"after the reload version {answer.json()['model']['version']} answers"
    found.probes.append(Probe(reloaded, answered - reloaded, version, fault))
    found.swaps.append((command, reloaded, answered))


@asynccontextmanager
async def _probing(
    client: httpx.AsyncClient, pictures: list[bytes], expected: Expected, found: Findings
) -> AsyncIterator[None]:
    """Known pictures at a steady rate, whatever becomes of the earlier ones."""

    async def probe(number: int, due: float) -> None:
        version = None
        try:
            answer = await client.post("/v1/predictions", content=pictures[number])
            fault = fault_of(answer, number, expected)
            version = None if fault else answer.json()["model"]["version"]
        except httpx.HTTPError as error:
            fault = repr(error)
        found.probes.append(Probe(due, time.monotonic() - due, version, fault))

    async def go_on(probes: asyncio.TaskGroup) -> None:
        number, due = 0, time.monotonic()
        while not ended.is_set():
            probes.create_task(probe(number % len(pictures), due))
            number, due = number + 1, due + 1 / _PROBES_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    ended = asyncio.Event()
    async with asyncio.TaskGroup() as probes:
        probes.create_task(go_on(probes))
        yield
        ended.set()


def _rate(plan: Plan, service: RunningService) -> float:
    """The load beside the probes, by the load test's own measure of capacity."""
    told = loadtest("capacity", "--url", service.url)
    capacity = re.search(r"([0-9.]+) answers/s", told.stdout)
    assert capacity, told.stdout + told.stderr
    return max(1.0, plan.share * float(capacity[1]) - _PROBES_PER_SECOND)


@contextmanager
def _load(plan: Plan, rate: float, service: RunningService, folder: Path, found: Findings) -> Iterator[None]:
    """The load generator as a process of its own; it ends after the last swap."""
    if not rate:
        yield
        return
    # A little longer than the swaps can be expected to take; ended early its report would be lost.
    unchanged = plan.steady_seconds + plan.rest_seconds + 2 * plan.memory_seconds
    seconds = unchanged + plan.swaps * (plan.interval_seconds + 0.5) + 5
    words = ("run", "--url", service.url, "--rate", f"{rate:.1f}", "--duration", f"{seconds:.0f}")
    command = [sys.executable, "-m", "loadtests", *words, "--report", str(folder / "load")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as generator:
        yield
        found.load_report = generator.communicate()[0]
    found.load_failed = generator.returncode != 0


def loadtest(*words: str) -> "subprocess.CompletedProcess[str]":
    """A whole run of one of the load test's commands."""
    command = [sys.executable, "-m", "loadtests", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


async def _resident_bytes_over(seconds: float, service: RunningService) -> float:
    """The median of a reading a second: a burst that is just then answered does not decide."""
    readings = [resident_bytes(service)]
    for _ in range(round(seconds)):
        await asyncio.sleep(1)
        readings.append(resident_bytes(service))
    return float(np.median(readings))


def resident_bytes(service: RunningService) -> int:
    """Of the service's process."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    kilobytes = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert kilobytes
    return int(kilobytes[1]) * 1024


def _latencies(phases: dict[str, NDArray[np.float64]]) -> list[str]:
    """A line a phase; the last one is what the others are held against."""
    milliseconds = {name: np.percentile(s, [50, 90, 99]) * 1000 for name, s in phases.items() if len(s)}
    steady = list(milliseconds.values())[-1]
    return [
        "{}: p50 {:.0f}, p90 {:.0f}, p99 {:.0f} ms; {:.2f}, {:.2f}, {:.2f} times steady".format(
            name, *found, *found / steady
        )
        for name, found in milliseconds.items()
    ]


def report(found: Findings) -> list[str]:
    """What was found, in lines."""
    until_reloaded, until_answered = (
        np.array([[reloaded - command, answered - command] for command, reloaded, answered in found.swaps]).T * 1000
    )
    back = until_answered[1:]  # each of them to a version that served before
    start, end = found.resident_bytes[0], found.resident_bytes[-1]
    lines: list[Any] = [
        found.load_report.strip() or "no load but the probes",
        f"{len(found.swaps)} swaps, {len(found.probes)} answers compared bit for bit, {len(found.faults)} wrong",
        *_latencies(found.seconds_by_phase()),
        f"command to reload's answer: median {np.median(until_reloaded):.0f} ms, longest {until_reloaded.max():.0f} ms",
        f"command to first answer: median {np.median(until_answered):.0f} ms, longest {until_answered.max():.0f} ms",
        f"... of a way back: {(back <= 1000).sum()} of {len(back)} in 1 s, longest {max(back, default=0):.0f} ms",
        f"resident memory {start / 2**20:.1f} MiB -> {end / 2**20:.1f} MiB: {end / start - 1:+.1%}",
        *found.faults[:10],
    ]
    return lines


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=500)
    parser.add_argument("--interval", type=float, default=4.0, help="seconds between swaps, from the third on steady")
    parser.add_argument("--steady", type=float, default=300.0, help="seconds of load before the first swap")
    parser.add_argument("--share", type=float, default=0.7, help="of the measured capacity")
    parser.add_argument("--rate", type=float, help="requests a second instead")
    parser.add_argument("--tiny", action="store_true", help="networks that fit on a screen instead of the shipped one")
    parser.add_argument("--standby", action="store_true", help="keep the version of before loaded (also_serve)")
    options = parser.parse_args()
    plan = Plan(
        options.swaps,
        options.steady,
        options.interval,
        options.share,
        options.rate,
        shipped=not options.tiny,
        standby=options.standby,
        rest_seconds=KEPT_SECONDS + 5,
        memory_seconds=60.0,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run(plan, Path(folder)))
    print("\n".join(report(found)))  # noqa: T201
    return 1 if found.faults or found.load_failed else 0


if __name__ == "__main__":
    sys.exit(main())
