"""python -m loadtests scenario NAME|all: a load with phases, and the promises that must hold under it."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from loadtests.commands.terminal import (
    add_capacity_options,
    add_picture_options,
    add_report_option,
    add_service_options,
    add_target_option,
    count,
    positive,
    run_to_end,
)
from loadtests.scenarios.catalogue import NAMES, SCENARIOS, Scenario, named
from loadtests.scenarios.report import overview_text, text_table, write_overview, write_report
from loadtests.scenarios.rounds import all_kept
from loadtests.scenarios.run import ScenarioOptions, ScenarioResult, run_scenario

EXAMPLES = """
examples:
  python -m loadtests scenario overload-4 --start-service
  python -m loadtests scenario all --start-service --report scenarios    about 40 minutes, 30 of them the soak
  python -m loadtests scenario overload-2 overload-4 abandoners --rounds 5 --start-service    judged by their medians
  python -m loadtests scenario soak --duration-scale 0.1 --url http://127.0.0.1:8000

exit status: 0 all targets met, 1 a target missed, 2 wrong usage or no ready service, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the scenarios one after the other; returns the exit status."""
    scenarios, rounds, options = read_options(arguments)
    report = partial(_report, folder=options.report_folder)
    return run_to_end(_carry_out(scenarios, rounds, options), report)


def read_options(arguments: Sequence[str] | None) -> tuple[list[Scenario], int, ScenarioOptions]:
    """Scenarios, how often each, and how; ends the program with status 2 and one line when the command is wrong."""
    given = vars(argument_parser().parse_args(arguments))
    scenarios = dict.fromkeys(scenario for name in given.pop("name") for scenario in named(name))
    return list(scenarios), given.pop("rounds"), ScenarioOptions(**given)


async def _carry_out(scenarios: Sequence[Scenario], rounds: int, options: ScenarioOptions) -> list[ScenarioResult]:
    """In turn, and each reported when it ends: the next one may take half an hour."""
    results = []
    for number in range(1, rounds + 1):
        folder = options.report_folder / f"round-{number}" if rounds > 1 else options.report_folder
        for scenario in scenarios:
            seconds = scenario.seconds * options.duration_scale
            print(f"\n{scenario.name}, {seconds:.0f} s: {scenario.description}", file=sys.stderr, flush=True)
            result = await run_scenario(scenario, replace(options, report_folder=folder))
            print(text_table(result))
            print("Report:", ", ".join(str(path) for path in write_report(result)), "\n", flush=True)
            results.append(result)
    return results


def _report(results: Sequence[ScenarioResult], folder: Path) -> int:
    print(overview_text(results))
    print("Overview:", ", ".join(str(path) for path in write_overview(results, folder)))
    return 0 if all_kept(results) else 1


def argument_parser() -> argparse.ArgumentParser:
    """Every option of the scenarios."""
    described = "\n".join(f"  {scenario.name:<16}{scenario.description}" for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(
        prog="dermserve-loadtest scenario",
        description="Load a service as an afternoon may, and hold it to what it promises. C is its measured capacity.",
        epilog=f"scenarios:\n{described}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    standard = ScenarioOptions()
    parser.add_argument("name", nargs="+", choices=[*NAMES, "all"], metavar="NAME", help="of those below, or all")
    add_service_options(parser, standard.url)
    load = parser.add_argument_group("load")
    load.add_argument(
        "--capacity",
        dest="capacity_per_second",
        type=positive,
        metavar="ANSWERS_PER_SECOND",
        help="C (default: measured before each scenario)",
    )
    add_capacity_options(load, standard.capacity_clients, standard.capacity_seconds)
    load.add_argument("--rounds", type=count, default=1, help="of all, in turn; judged by medians (default 1)")
    load.add_argument(
        "--duration-scale",
        type=positive,
        default=standard.duration_scale,
        help="0.1: a tenth as long, for a first look",
    )
    add_target_option(load, standard.target_seconds)
    add_picture_options(load, standard.pictures, standard.seed)
    add_report_option(parser, standard.report_folder)
    return parser
