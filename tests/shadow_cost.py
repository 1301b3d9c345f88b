"""What a candidate in the shadow costs the answers: capacity, and p99 at 0.7 of it, with it and without.

    python -m tests.shadow_cost

Starts two services on one store with two versions, of which one compares a share of its traffic with the candidate, and
loads them in turn, in an order that changes from round to round. Timings are worth what the machine is: run it alone.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import httpx

from loadtests.generator import PREDICTIONS
from loadtests.pictures import make_pictures
from loadtests.wrk import load, write_requests
from tests.conftest import RunningService, running_service
from tests.swaps import loadtest, two_versions

_CLIENTS = 8
_LOAD_SHARE = 0.7


def capacity(service: RunningService, requests: list[Path], seconds: int) -> float:
    """Answers a second with eight callers at once."""
    found = load(f"{service.url}{PREDICTIONS}", requests, clients=_CLIENTS, seconds=seconds)
    assert (found.refused, found.failed) == (0, 0)
    return found.answers_per_second


def p99_seconds(service: RunningService, rate_per_second: float, seconds: int, folder: Path) -> float:
    """Of the answers to Poisson arrivals."""
    words = ("--url", service.url, "--rate", f"{rate_per_second:.1f}", "--duration", f"{seconds}")
    loadtest("run", *words, "--report", str(folder)).check_returncode()
    return float(json.loads((folder / "report.json").read_text())["summary"]["p99_seconds"])


def measure(services: dict[str, RunningService], rounds: int, seconds: int, folder: Path) -> None:
    """Load the services `without` and `with` a shadow in turn; prints each round, medians and ratios."""
    requests = write_requests(folder, PREDICTIONS, [("image/jpeg", picture) for picture in make_pictures(32, 1)])
    rate = _LOAD_SHARE * capacity(services["without"], requests, seconds)
    rates, delays = [], []
    for number in range(rounds):
        order = sorted(services, reverse=number % 2 == 1)
        rates.append({name: capacity(services[name], requests, seconds) for name in order})
        delays.append({name: p99_seconds(services[name], rate, seconds, folder / "load") for name in order})
        shown = [f"{name} {rates[-1][name]:.1f}/s, p99 {delays[-1][name] * 1000:.0f} ms" for name in services]
        print(f"round {number + 1}: {'; '.join(shown)}", flush=True)  # noqa: T201
    ratio = statistics.median(found["with"] / found["without"] for found in rates)
    slower = statistics.median(found["with"] / found["without"] for found in delays)
    print(f"capacity with the shadow: {ratio:.3f} times; p99 at {_LOAD_SHARE} of it: {slower:.2f} times")  # noqa: T201


def main() -> int:
    """Start both, measure, and tell what the shadow itself counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.1, help="of the pictures that the candidate sees, too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8, help="of one measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        store = two_versions(folder / "store", shipped=True)
        store.promote("lesion7", "2", "candidate")
        common = ("--store", str(store.root), "--store-poll-seconds", "0", "--shadow-share")
        services = {
            which: running.enter_context(running_service(folder / f"{which}.log", *common, str(share)))
            for which, share in (("without", 0), ("with", options.share))
        }
        measure(services, options.rounds, options.seconds, folder)
        told = httpx.get(f"{services['with'].url}/v1/shadow").raise_for_status().json()
        print(f"the shadow's own report: {json.dumps(told)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
