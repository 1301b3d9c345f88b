"""python -m loadtests scenario NAME|all: a load with phases, and the promises that must hold under it."""

import argparse
import sys
from collections.abc import Sequence

from loadtests.commands.terminal import (
    add_capacity_options,
    add_picture_options,
    add_report_option,
    add_service_options,
    add_target_option,
    positive,
    run_to_end,
)
from loadtests.scenarios.catalogue import NAMES, SCENARIOS, Scenario, named
from loadtests.scenarios.report import overview_text, text_table, write_overview, write_report
from loadtests.scenarios.run import ScenarioOptions, ScenarioResult, run_scenario

EXAMPLES = """
examples:
  python -m loadtests scenario overload-4 --start-service
  python -m loadtests scenario all --start-service --report scenarios    about 40 minutes, 30 of them the soak
  python -m loadtests scenario soak --duration-scale 0.1 --url http://127.0.0.1:8000

exit status: 0 all targets met, 1 a target missed, 2 wrong usage or no ready service, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the scenarios one after the other; returns the exit status."""
    scenarios, options = read_options(arguments)
    return run_to_end(_carry_out(scenarios, options), _report)


def read_options(arguments: Sequence[str] | None) -> tuple[list[Scenario], ScenarioOptions]:
    """Parse the command line; ends the program with status 2 and one line when it is wrong."""
    given = vars(argument_parser().parse_args(arguments))
    return named(given.pop("name")), ScenarioOptions(**given)


async def _carry_out(scenarios: Sequence[Scenario], options: ScenarioOptions) -> list[ScenarioResult]:
    """Each scenario is reported when it ends: the next one may take half an hour."""
    results = []
    for scenario in scenarios:
        seconds = scenario.seconds * options.duration_scale
        print(f"\n{scenario.name}, {seconds:.0f} s: {scenario.description}", file=sys.stderr, flush=True)
        result = await run_scenario(scenario, options)
        print(text_table(result))
        print("Report:", ", ".join(str(path) for path in write_report(result)), "\n", flush=True)
        results.append(result)
    return results


def _report(results: Sequence[ScenarioResult]) -> int:
    print(overview_text(results))
    print("Overview:", ", ".join(str(path) for path in write_overview(results, results[0].options.report_folder)))
    return 0 if all(result.verdict.passed for result in results) else 1


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
    parser.add_argument("name", choices=[*NAMES, "all"], metavar="NAME", help="one of those below, or all")
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
