"""What a candidate in the shadow costs the answers: capacity, and p99 at 0.7 of it, with it and without.

    python -m tests.shadow_cost

Starts two services on one store with two versions, of which one compares a share of its traffic with the candidate, and
loads them in turn, in an order that changes from round to round. Timings are worth what the machine is: run it alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx

from loadtests.pictures import make_pictures
from loadtests.wrk import load, write_requests
from tests.conftest import ROOT, RunningService, running_service
from tests.swaps import two_versions

PREDICTIONS = "/v1/predictions"
_CLIENTS = 8
_LOAD_SHARE = 0.7


def capacity(service: RunningService, requests: list[Path], seconds: int) -> float:
    """Answers a second with eight callers at once."""
    found = load(f"{service.url}{PREDICTIONS}", requests, clients=_CLIENTS, seconds=seconds)
    assert (found.refused, found.failed) == (0, 0)
    return found.answers_per_second


def p99_seconds(service: RunningService, rate_per_second: float, seconds: int, folder: Path) -> float:
    """Of the answers to Poisson arrivals."""
    words = ("run", "--url", service.url, "--rate", f"{rate_per_second:.1f}", "--duration", f"{seconds}")
    command = [sys.executable, "-m", "loadtests", *words, "--report", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((folder / "report.json").read_text())["summary"]["p99_seconds"])


def compared(service: RunningService) -> dict[str, float]:
    """What the shadow counted so far."""
    told: dict[str, float] = httpx.get(f"{service.url}/v1/shadow").raise_for_status().json()
    return told


def main() -> int:
    """Measure in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.1, help="of the pictures that the candidate sees, too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8, help="of one measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as services:
        folder = Path(name)
        store = two_versions(folder / "store", shipped=True)
        store.promote("lesion7", "2", "candidate")
        common = ("--store", str(store.root), "--store-poll-seconds", "0")
        without = services.enter_context(running_service(folder / "without.log", *common, "--shadow-share", "0"))
        shadowed = services.enter_context(
            running_service(folder / "shadowed.log", *common, "--shadow-share", str(options.share))
        )
        requests = write_requests(folder, PREDICTIONS, [("image/jpeg", picture) for picture in make_pictures(32, 1)])
        rate = _LOAD_SHARE * capacity(without, requests, options.seconds)
        rates, delays = [], []
        for number in range(options.rounds):
            order = [without, shadowed] if number % 2 else [shadowed, without]
            rates.append({service.url: capacity(service, requests, options.seconds) for service in order})
            delays.append({s.url: p99_seconds(s, rate, options.seconds, folder / "load") for s in order})
            print(_line(number, rates[-1], delays[-1], without, shadowed), flush=True)  # noqa: T201
        ratio = statistics.median(found[shadowed.url] / found[without.url] for found in rates)
        slower = statistics.median(found[shadowed.url] / found[without.url] for found in delays)
        print(f"capacity with the shadow: {ratio:.3f} times; p99 at {_LOAD_SHARE} of it: {slower:.2f} times")  # noqa: T201
        print(f"the shadow's own report: {json.dumps(compared(shadowed))}")  # noqa: T201
    return 0


def _line(
    number: int, rates: dict[str, float], delays: dict[str, float], without: RunningService, shadowed: RunningService
) -> str:
    shown = [
        f"{name} {rates[service.url]:.1f}/s, p99 {delays[service.url] * 1000:.0f} ms"
        for name, service in (("without", without), ("with", shadowed))
    ]
    return f"round {number + 1}: {'; '.join(shown)}"


if __name__ == "__main__":
    sys.exit(main())
