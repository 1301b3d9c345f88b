"""What is left of scenarios: one report each, and an overview page."""

import dataclasses
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtests.page import Table, document, page, table_element
from loadtests.report import Rows, aligned, milliseconds, observation_object, observation_rows, write_files
from loadtests.scenarios.checks import Check, health_p99_seconds
from loadtests.scenarios.phases import Phase
from loadtests.scenarios.rounds import all_kept, by_scenario, judged_together
from loadtests.scenarios.run import ScenarioResult

MARKS = {True: "kept", False: "MISSED", None: "-"}
OVERVIEW_HEAD = ("scenario", "verdict", "C /s", "answers /s", "p50", "p99", "refused", "refusals p99", "health p99")


def check_rows(checks: Sequence[Check]) -> list[tuple[str, str, str, str]]:
    """The promises of a scenario with a head."""
    return [("", "promise", "found", "limit"), *((MARKS[c.passed], c.promise, c.found, c.limit) for c in checks)]


def rows(result: ScenarioResult) -> Rows:
    """The load and its figures in words."""
    measured = [f"{capacity.answers_per_second:.1f}" for capacity in result.capacities]
    how = (
        f"before and after: {', '.join(measured)}, {result.capacities[0].measured_by}" if result.capacities else "given"
    )
    return [
        ("Capacity C", f"{result.capacity_per_second:.1f} answers/s ({how})"),
        ("Load", "; ".join(map(_in_words, result.phases))),
        *observation_rows(result.observation),
    ]


def _in_words(phase: Phase) -> str:
    return f"{phase.name}: {phase.share:g} C for {phase.seconds:g} s"


def text_table(result: ScenarioResult) -> str:
    """Figures, promises and verdict as plain text."""
    head = f"{result.scenario.name}: {result.scenario.description}"
    faults = [f"  {number} x {fault}" for fault, number in list(result.observation.faults.items())[:10]]
    lines = [head, "", *aligned(rows(result)), *faults, "", *aligned(check_rows(result.checks)), ""]
    return "\n".join([*lines, *result.verdict.doubts, result.verdict.sentence])


def overview_rows(results: Sequence[ScenarioResult]) -> list[tuple[str, ...]]:
    """A line a scenario and round, with a head."""
    return [OVERVIEW_HEAD, *map(_overview_row, results)]


def rounds_rows(results: Sequence[ScenarioResult]) -> list[tuple[str, ...]]:
    """The promises of each scenario, all its rounds together, with a head; nothing when there was but one round."""
    several = {name: rounds for name, rounds in by_scenario(results).items() if len(rounds) > 1}
    if not several:
        return []
    head, *_ = check_rows([])
    lines = [(name, *row) for name, rounds in several.items() for row in check_rows(judged_together(rounds))[1:]]
    return [("scenario", *head), *lines]


def _overview_row(result: ScenarioResult) -> tuple[str, ...]:
    summary, observation = result.observation.summary, result.observation
    health = max(health_p99_seconds(observation, path) for path in {probe.path for probe in observation.health} or {""})
    return (
        result.scenario.name,
        "met" if result.verdict.passed else "MISSED",
        f"{result.capacity_per_second:.1f}",
        f"{summary.achieved_per_second:.1f}",
        milliseconds(summary.p50_seconds),
        milliseconds(summary.p99_seconds),
        str(summary.refused),
        milliseconds(summary.refusal_p99_seconds),
        milliseconds(health),
    )


def report_object(result: ScenarioResult) -> dict[str, Any]:
    """Verdict, promises, load and figures."""
    return {
        "scenario": result.scenario.name,
        "description": result.scenario.description,
        "verdict": dataclasses.asdict(result.verdict),
        "checks": [dataclasses.asdict(check) for check in result.checks],
        "options": dataclasses.asdict(result.options),
        "phases": [dataclasses.asdict(phase) for phase in result.phases],
        "capacity_per_second": result.capacity_per_second,
        "capacities": [dataclasses.asdict(capacity) for capacity in result.capacities],
        **observation_object(result.observation),
    }


def write_report(result: ScenarioResult) -> list[Path]:
    """NAME/report.json and NAME/report.html in the report folder; returns their paths."""
    tables = [Table(rows(result)), Table(check_rows(result.checks), has_head=True)]
    title = f"{result.scenario.name}: {result.scenario.description}"
    text = page(title, result.observation, result.verdict, tables)
    return write_files(result.options.report_folder / result.scenario.name, "report", report_object(result), text)


def write_overview(results: Sequence[ScenarioResult], folder: Path) -> list[Path]:
    """overview.json and overview.html in the report folder; returns their paths."""
    head, *lines = overview_rows(results)
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(_overview_line(result, line, folder) for result, line in zip(results, lines, strict=True))
    together = rounds_rows(results)
    passed = all_kept(results)
    sentence = "All targets were met." if passed else "Not all targets were met."
    text = document(
        "Load scenarios",
        f'<h1>Load scenarios</h1><p class="verdict {"good" if passed else "bad"}">{sentence}</p>'
        f"<table><tr>{cells}</tr>{body}</table>"
        + (f"<h2>All rounds together</h2>{table_element(Table(together, has_head=True))}" if together else ""),
    )
    figures = {
        "passed": passed,
        "scenarios": [dict(zip(head, line, strict=True)) for line in lines],
        "rounds_together": [
            dict(zip(("scenario", "mark", "promise", "found", "limit"), row, strict=True)) for row in together[1:]
        ],
    }
    return write_files(folder, "overview", figures, text)


def _overview_line(result: ScenarioResult, line: tuple[str, ...], folder: Path) -> str:
    name, verdict, *figures = line
    page_file = (result.options.report_folder / name / "report.html").relative_to(folder).as_posix()
    style = "good" if result.verdict.passed else "bad"
    others = "".join(f"<td>{escape(figure)}</td>" for figure in figures)
    return (
        f'<tr><td><a href="{escape(page_file)}">{escape(name)}</a></td>'
        f'<td class="{style}">{escape(verdict)}</td>{others}</tr>'
    )


def overview_text(results: Sequence[ScenarioResult]) -> str:
    """The overview as plain text."""
    together = rounds_rows(results)
    lines = aligned(overview_rows(results))
    return "\n".join([*lines, "", "All rounds together", "", *aligned(together)] if together else lines)
