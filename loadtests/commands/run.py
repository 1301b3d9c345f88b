"""python -m loadtests run: one load at a set rate, and whether every answer came in time."""

import argparse
from collections.abc import Sequence

from loadtests.commands.terminal import (
    add_capacity_options,
    add_picture_options,
    add_report_option,
    add_service_options,
    add_target_option,
    count,
    positive,
    rate,
    run_to_end,
)
from loadtests.options import Options
from loadtests.report import text_table, write_report
from loadtests.run import Result, run_load_test

EXAMPLES = """\
examples:
  python -m loadtests --start-service                     start a service, load it with half of its capacity
  python -m loadtests --rate 20 --duration 300            20 requests/s for five minutes to a running service
  python -m loadtests --rate auto --share 3 --expect-refusals --start-service
                                                          three times its capacity: answers in time or proper refusals

other commands (each with --help):
  python -m loadtests scenario all --start-service        steady, spike, soak, overload ..., a verdict each
  python -m loadtests capacity --start-service            answers/s with 8 callers at once
  python -m loadtests peers                               side by side with other serving frameworks
  python -m loadtests profile                             where each millisecond of a request goes

exit status: 0 target met, 1 target missed, 2 wrong usage or no ready service, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load test, print its table, write its report; returns the exit status."""
    return run_to_end(run_load_test(read_options(arguments)), _report)


def _report(result: Result) -> int:
    print(text_table(result))
    print("Report:", ", ".join(str(path) for path in write_report(result)))
    return 0 if result.verdict.passed else 1


def read_options(arguments: Sequence[str] | None) -> Options:
    """Parse the command line; ends the program with status 2 and one line when it is wrong."""
    given = vars(argument_parser().parse_args(arguments))
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
    add_service_options(parser, standard.url)
    _add_load_options(parser.add_argument_group("load"), standard)
    capacity = parser.add_argument_group("capacity, for --rate auto")
    add_capacity_options(capacity, standard.capacity_clients, standard.capacity_seconds)
    _add_promise_options(parser.add_argument_group("promise"), standard)
    add_report_option(parser, standard.report_folder)
    return parser


def _add_load_options(load: argparse._ArgumentGroup, standard: Options) -> None:
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
    add_picture_options(load, standard.pictures, standard.seed)
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


def _add_promise_options(promise: argparse._ArgumentGroup, standard: Options) -> None:
    add_target_option(promise, standard.target_seconds)
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
