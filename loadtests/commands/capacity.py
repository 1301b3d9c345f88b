"""python -m loadtests capacity: answers a second with a few callers at once."""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from loadtests.capacity import Capacity, required_capacity
from loadtests.commands.terminal import add_service_options, count, positive, run_to_end
from loadtests.generator import prediction_request
from loadtests.http_client import ConnectionPool
from loadtests.observation import warm_up
from loadtests.options import Options
from loadtests.pictures import make_pictures
from loadtests.service_process import ready_service


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the capacity, print it; returns the exit status."""
    return run_to_end(_measure(argument_parser().parse_args(arguments)), _report)


async def _measure(options: argparse.Namespace) -> list[Capacity]:
    async with ready_service(options.url, options.log, start=options.start_service) as origin:
        pool = ConnectionPool(origin)
        requests = [prediction_request(origin, picture) for picture in make_pictures(options.pictures, options.seed)]
        try:
            await warm_up(pool, requests)
            return [
                await required_capacity(pool, requests, clients=options.clients, seconds=options.seconds)
                for _ in range(options.rounds)
            ]
        finally:
            pool.close()


def _report(rounds: Sequence[Capacity]) -> int:
    rates = [capacity.answers_per_second for capacity in rounds]
    failures = sum(capacity.failures for capacity in rounds)
    print(
        f"{statistics.median(rates):.1f} answers/s with {rounds[0].clients} callers at once "
        f"(median of {len(rounds)}, {min(rates):.1f} to {max(rates):.1f}; {failures} requests failed; "
        f"measured by {rounds[0].measured_by})"
    )
    return 0


def argument_parser() -> argparse.ArgumentParser:
    """Every option."""
    standard = Options()
    parser = argparse.ArgumentParser(
        prog="dermserve-loadtest capacity",
        description="Answers a second of a closed loop, by wrk where it is installed.",
    )
    add_service_options(parser, standard.url)
    parser.add_argument("--clients", type=count, default=standard.capacity_clients, help="default %(default)s")
    parser.add_argument("--seconds", type=positive, default=standard.capacity_seconds, help="default %(default)s")
    parser.add_argument("--rounds", type=count, default=1, help="default %(default)s")
    parser.add_argument(
        "--pictures", type=count, default=standard.pictures, help="different ones (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=standard.seed, help="of the pictures (default %(default)s)")
    parser.add_argument(
        "--log", type=Path, default=standard.report_folder / "service.log", metavar="FILE", help="of a started service"
    )
    return parser
