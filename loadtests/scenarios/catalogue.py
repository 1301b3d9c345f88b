"""All scenarios: the load, and the promises that must hold under it. C is the service's capacity."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.scenarios import checks
from loadtests.scenarios.checks import Promise
from loadtests.scenarios.phases import Phase

EVERYWHERE = (checks.no_errors, checks.quick_health, checks.true_health, checks.counts_agree)
OVERLOAD = (*EVERYWHERE, checks.accepted_in_time, checks.quick_refusals, checks.bounded_memory)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load and its promises."""

    name: str
    description: str
    phases: Sequence[Phase]
    promises: Sequence[Promise]

    @property
    def seconds(self) -> float:
        """How long it takes, without the measurement of the capacity."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def needs_mixed_pictures(self) -> bool:
        """Whether any phase sends pictures of all kinds."""
        return any(phase.mixed for phase in self.phases)


def _overload(factor: int) -> Scenario:
    return Scenario(
        f"overload-{factor}",
        f"{factor} C for a minute: the service goes on answering at its capacity and refuses the rest at once",
        (Phase("filling", factor, 5.0), Phase("overload", factor, 60.0)),
        (checks.goodput("overload"), *OVERLOAD),
    )


SCENARIOS = (
    Scenario(
        "steady",
        "0.7 C for a minute: everybody is answered in time, nobody is refused",
        (Phase("steady", 0.7, 60.0),),
        (checks.everybody_answered, *EVERYWHERE, checks.bounded_memory),
    ),
    Scenario(
        "spike",
        "0.5 C, then 3 C for five seconds, then 0.5 C again: five seconds later all is as before",
        (
            Phase("before", 0.5, 20.0),
            Phase("spike", 3.0, 5.0),
            Phase("recovering", 0.5, 5.0),
            Phase("after", 0.5, 20.0),
        ),
        (checks.recovered("before", "after"), *EVERYWHERE, checks.accepted_in_time, checks.quick_refusals),
    ),
    Scenario(
        "soak",
        "0.4 C of mixed sizes for half an hour: memory, descriptors and threads stay flat after the first ten minutes",
        (Phase("soak", 0.4, 1800.0, mixed=True),),
        (checks.small_ones_in_time, *EVERYWHERE, checks.flat_memory, checks.flat_descriptors, checks.flat_threads),
    ),
    _overload(2),
    _overload(4),
    Scenario(
        "abandoners",
        "3 C, half of the callers leave while they wait: no work is spent on them, the others get the whole capacity",
        (Phase("filling", 3.0, 5.0), Phase("abandoning", 3.0, 45.0, leaving_share=0.5)),
        (checks.abandoned_unspent, checks.goodput("abandoning"), *OVERLOAD, checks.leavers_left),
    ),
    Scenario(
        "mixed-sizes",
        "0.4 C of 300 pixels to 12 megapixels, JPEG and PNG: large pictures do not keep small ones waiting",
        (Phase("mixed", 0.4, 60.0, mixed=True),),
        (checks.small_ones_in_time, *EVERYWHERE, checks.large_ones),
    ),
    Scenario(
        "slow-uploaders",
        "0.5 C beside 300 connections whose uploads drip: nobody else notices",
        (Phase("alone", 0.5, 15.0), Phase("beside", 0.5, 45.0, slow_uploaders=300)),
        (checks.everybody_answered, checks.unharmed("alone", "beside"), *EVERYWHERE, checks.slow_upload_endings),
    ),
    Scenario(
        "retries",
        "1.2 C, a tenth of the callers come back when Retry-After says so: they are served. At last everybody comes "
        "back, which no server can satisfy: 1.2 C are more than C",
        (
            Phase("filling", 1.2, 10.0),
            Phase("a tenth comes back", 1.2, 90.0, retrying_share=0.1),
            Phase("between", 0.5, 10.0),
            Phase("everybody comes back", 1.2, 40.0, retrying_share=1.0, retry_limit=3),
        ),
        (
            checks.retries_succeed("a tenth comes back", judged=True),
            *OVERLOAD,
            checks.retries_succeed("everybody comes back", judged=False),
        ),
    ),
)
NAMES = tuple(scenario.name for scenario in SCENARIOS)


def named(name: str) -> list[Scenario]:
    """The scenario of this name, or all of them for "all"; raises KeyError."""
    if name == "all":
        return list(SCENARIOS)
    return [{scenario.name: scenario for scenario in SCENARIOS}[name]]
