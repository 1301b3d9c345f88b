"""What the sub-commands share: numbers on the command line, the event loop, the ways in which a run can end."""

import argparse
import asyncio
import math
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

from loadtests.http_client import Origin
from loadtests.service_process import ServiceUnavailableError

INTERRUPTED = 130
NO_SERVICE = 2
Result = TypeVar("Result")


def run_to_end(load: Coroutine[None, None, Result], report: Callable[[Result], int]) -> int:
    """Run a load on the fastest event loop there is, then report; returns the exit status."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            result = runner.run(load)
    except ServiceUnavailableError as error:
        print(f"dermserve-loadtest: {error}", file=sys.stderr)
        return NO_SERVICE
    except KeyboardInterrupt:
        print("dermserve-loadtest: interrupted, no report", file=sys.stderr)
        return INTERRUPTED
    return report(result)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def add_service_options(parser: argparse.ArgumentParser, default_url: str) -> None:
    """Which service to load."""
    where = parser.add_argument_group("service")
    where.add_argument("--url", type=url, default=default_url, help="a running service (default %(default)s)")
    where.add_argument("--start-service", action="store_true", help="start python -m service on a free port instead")


def add_picture_options(group: argparse._ArgumentGroup, pictures: int, seed: int) -> None:
    """What is sent."""
    group.add_argument("--pictures", type=count, default=pictures, help="different pictures (default %(default)s)")
    group.add_argument("--seed", type=int, default=seed, help="of pictures and arrivals (default %(default)s)")


def add_capacity_options(group: argparse._ArgumentGroup, clients: int, seconds: float) -> None:
    """How the capacity is measured before a load that depends on it."""
    group.add_argument("--capacity-clients", type=count, default=clients, help="default %(default)s")
    group.add_argument("--capacity-seconds", type=positive, default=seconds, help="default %(default)s")


def add_target_option(group: argparse._ArgumentGroup, target_seconds: float) -> None:
    """The promise that the answers are held to."""
    group.add_argument(
        "--target-seconds", type=positive, default=target_seconds, help="every answer within (default %(default)s)"
    )


def add_report_option(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Where the report goes."""
    parser.add_argument(
        "--report", dest="report_folder", type=Path, default=folder, metavar="FOLDER", help="default %(default)s"
    )


def url(text: str) -> str:
    """An address that can be asked."""
    try:
        Origin(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def positive(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def count(text: str) -> int:
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def rate(text: str) -> float | str:
    """Requests a second, or the word auto."""
    return text if text == "auto" else positive(text)
