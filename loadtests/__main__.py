"""Command line of the load test: python -m loadtests, dermserve-loadtest."""

import argparse
import asyncio
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.http_client import Origin
from loadtests.options import Options
from loadtests.report import text_table, write_report
from loadtests.run import run_load_test
from loadtests.service_process import ServiceUnavailableError

EXAMPLES = """\
examples:
  python -m loadtests --start-service                     start a service, load it with half of its capacity
  python -m loadtests --rate 20 --duration 300            20 requests/s for five minutes to a running service
  python -m loadtests --rate auto --share 3 --expect-refusals --start-service
                                                          three times its capacity: answers in time or proper refusals

exit status: 0 target met, 1 target missed, 2 wrong usage or no ready service, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load test, print its table, write its report; returns the exit status."""
    options = read_options(arguments)
    try:
        result = asyncio.run(run_load_test(options))
    except ServiceUnavailableError as error:
        print(f"dermserve-loadtest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dermserve-loadtest: interrupted, no report", file=sys.stderr)
        return 130
    print(text_table(result))
    print("Report:", ", ".join(str(path) for path in write_report(result)))
    return 0 if result.verdict.passed else 1


def read_options(arguments: Sequence[str] | None) -> Options:
    """Parse the command line; ends the program with status 2 and one line when it is wrong."""
    parser = argument_parser()
    given = vars(parser.parse_args(arguments))
    try:
        Origin(given["url"])
    except ValueError as error:
        parser.error(str(error))
    rate = given.pop("rate")
    return Options(rate_per_second=None if rate == "auto" else rate, **given)


def argument_parser() -> argparse.ArgumentParser:
    """Every option of the load test."""
    parser = argparse.ArgumentParser(
        prog="dermserve-loadtest",
        description="Send generated pictures to a service at a set rate and judge whether it answers in time.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    standard = Options()
    where = parser.add_argument_group("service")
    where.add_argument("--url", default=standard.url, help="a running service (default %(default)s)")
    where.add_argument("--start-service", action="store_true", help="start python -m service on a free port instead")
    load = parser.add_argument_group("load")
    load.add_argument("--rate", type=rate, default="auto", help="requests/s, or auto: a share of the measured capacity")
    load.add_argument("--share", type=positive, default=standard.share, help="for --rate auto (default %(default)s)")
    load.add_argument(
        "--duration",
        dest="duration_seconds",
        type=positive,
        default=standard.duration_seconds,
        metavar="SECONDS",
        help="default %(default)s",
    )
    load.add_argument(
        "--arrivals", choices=("poisson", "constant"), default=standard.arrivals, help="default %(default)s"
    )
    load.add_argument(
        "--pictures", type=count, default=standard.pictures, help="different pictures (default %(default)s)"
    )
    load.add_argument("--seed", type=int, default=standard.seed, help="of pictures and arrivals (default %(default)s)")
    load.add_argument("--deadline-seconds", type=positive, help="send this deadline with every request (default: none)")
    load.add_argument(
        "--give-up-seconds",
        type=positive,
        default=standard.give_up_seconds,
        help="wait no longer for an answer (default %(default)s)",
    )
    load.add_argument(
        "--in-flight-limit",
        type=count,
        default=standard.in_flight_limit,
        help="more at once are not sent but counted as errors (default %(default)s)",
    )
    load.add_argument(
        "--capacity-clients",
        type=count,
        default=standard.capacity_clients,
        help="for --rate auto (default %(default)s)",
    )
    load.add_argument(
        "--capacity-seconds",
        type=positive,
        default=standard.capacity_seconds,
        help="for --rate auto (default %(default)s)",
    )
    promise = parser.add_argument_group("promise")
    promise.add_argument(
        "--target-seconds",
        type=positive,
        default=standard.target_seconds,
        help="every answer within (default %(default)s)",
    )
    promise.add_argument(
        "--expect-refusals",
        action="store_true",
        help="overload: a 503 with Retry-After in time is no failure, memory must stay bounded",
    )
    promise.add_argument(
        "--memory-growth-limit-mib",
        type=positive,
        default=standard.memory_growth_limit_mib,
        help="with --expect-refusals (default %(default)s)",
    )
    parser.add_argument(
        "--report",
        dest="report_folder",
        type=Path,
        default=standard.report_folder,
        metavar="FOLDER",
        help="default %(default)s",
    )
    return parser


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


if __name__ == "__main__":
    sys.exit(main())
