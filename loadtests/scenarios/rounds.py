"""Several rounds of the same scenarios in turn: a shared machine changes its speed, and one round decides nothing."""

from collections.abc import Sequence
from dataclasses import replace

from loadtests.scenarios.checks import Check
from loadtests.scenarios.run import ScenarioResult


def by_scenario(results: Sequence[ScenarioResult]) -> dict[str, list[ScenarioResult]]:
    """The rounds of each scenario."""
    rounds: dict[str, list[ScenarioResult]] = {}
    for result in results:
        rounds.setdefault(result.scenario.name, []).append(result)
    return rounds


def judged_together(rounds: Sequence[ScenarioResult]) -> list[Check]:
    """The promises of one scenario: a figure by its median, what is no figure by the worst round."""
    return [_together(checks) for checks in zip(*(result.checks for result in rounds), strict=True)]


def all_kept(results: Sequence[ScenarioResult]) -> bool:
    """Whether every scenario keeps its promises, all its rounds together."""
    checks = [check for rounds in by_scenario(results).values() for check in judged_together(rounds)]
    return all(check.passed is not False for check in checks)


def _together(checks: Sequence[Check]) -> Check:
    if len(checks) == 1 or any(check.value is None for check in checks):
        return next((check for check in checks if check.passed is False), checks[0])
    ordered = sorted(checks, key=lambda check: check.value or 0.0)
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]  # one, or two of which the worse counts
    median = next((check for check in middle if check.passed is False), middle[0])
    return replace(median, found=f"{median.found} (median; from {ordered[0].found} to {ordered[-1].found})")
