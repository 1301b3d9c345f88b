"""From measurements to the table: medians of rounds with their spread, ratios round by round, targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

# In one round: candidate -> what it reached
Round = Mapping[str, "Reached"]


@dataclass(frozen=True, slots=True)
class Reached:
    """One candidate in one round."""

    answers_per_second: float  # of several clients at once
    p50_seconds: float  # of several clients at once
    p99_seconds: float
    one_client_p50_seconds: float
    refused: int  # answers of status 400 and above
    failed: int  # connections that broke, answers that did not come
    mode: str = ""  # of a loop: the better one


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value a round; there must be one."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. The ratios are ours over theirs: above 1, dermserve is faster."""

    name: str
    title: str
    setting: str
    rounds: int
    answers_per_second: Spread
    p50_seconds: Spread
    p99_seconds: Spread
    one_client_p50_seconds: Spread
    refused: int
    failed: int
    ratios: Mapping[str, Spread] = field(default_factory=dict)  # by name of our candidate


@dataclass(frozen=True, slots=True)
class Target:
    """A promise of the comparison: `figure` of `ours` over that of `theirs`."""

    ours: str
    theirs: str
    figure: str  # a field of Reached
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A target and what was found."""

    target: Target
    found: Spread
    met: bool


# How much faster than each rival: with the same network, and with the variant that dermserve chooses itself
AT_LEAST = {"fastapi-tuned": 1.15, "litserve": 1.25, "bentoml": 1.5, "mlserver": 1.5}
AT_LEAST_ITS_OWN_CHOICE = 2.0
AT_LEAST_OF_BARE_LOOP, AT_MOST_ONE_PICTURE = 0.85, 1.2


def order(names: Sequence[str], round_number: int, rounds: int) -> list[str]:
    """The candidates as a round runs them: rotated, so that none keeps its place."""
    first = round_number * len(names) // max(rounds, 1) % len(names)
    return [*names[first:], *names[:first]]


def ratio(rounds: Sequence[Round], ours: str, theirs: str, figure: str) -> Spread | None:
    """Ours over theirs, round by round; None when no round has both above 0."""
    pairs = [(getattr(r[ours], figure), getattr(r[theirs], figure)) for r in rounds if ours in r and theirs in r]
    found = [our / their for our, their in pairs if their > 0]
    return Spread.of(found) if found else None


def row(rounds: Sequence[Round], name: str, title: str, setting: str, ours: Sequence[str]) -> Row | None:
    """The line of one candidate, None when it was never measured; `ours` are those it is compared with."""
    reached = [r[name] for r in rounds if name in r]
    if not reached:
        return None
    others = (our for our in ours if our != name)
    ratios = {our: found for our in others if (found := ratio(rounds, our, name, "answers_per_second"))}
    return Row(
        name=name,
        title=title,
        setting=setting or " / ".join(sorted({r.mode for r in reached})),
        rounds=len(reached),
        answers_per_second=Spread.of([r.answers_per_second for r in reached]),
        p50_seconds=Spread.of([r.p50_seconds for r in reached]),
        p99_seconds=Spread.of([r.p99_seconds for r in reached]),
        one_client_p50_seconds=Spread.of([r.one_client_p50_seconds for r in reached]),
        refused=sum(r.refused for r in reached),
        failed=sum(r.failed for r in reached),
        ratios=ratios,
    )


def targets(names: Sequence[str], own_choice: str) -> list[Target]:
    """What is promised about these candidates; `own_choice` is the variant that dermserve chose itself."""
    found = []
    for ours, variant in (("dermserve-fp32", "fp32"), ("dermserve-auto", own_choice)):
        bare = f"bare-{variant}"
        found.append(Target(ours, bare, "answers_per_second", at_least=AT_LEAST_OF_BARE_LOOP))
        found.append(Target(ours, bare, "one_client_p50_seconds", at_most=AT_MOST_ONE_PICTURE))
    for rival, least in AT_LEAST.items():
        for name in (rival, f"{rival}-our-decoder"):
            found.append(Target("dermserve-fp32", name, "answers_per_second", at_least=least))
            found.append(Target("dermserve-auto", name, "answers_per_second", at_least=AT_LEAST_ITS_OWN_CHOICE))
    return [target for target in found if target.ours in names and target.theirs in names]


def judge(rounds: Sequence[Round], promised: Sequence[Target]) -> list[Judged]:
    """Each target held against the median of the rounds' ratios; one without a figure is not met."""
    judged = []
    for target in promised:
        found = ratio(rounds, target.ours, target.theirs, target.figure)
        met = found is not None and _within(found.median, target)
        judged.append(Judged(target, found or Spread(0.0, 0.0, 0.0), met))
    return judged


def _within(value: float, target: Target) -> bool:
    return (target.at_least is None or value >= target.at_least) and (target.at_most is None or value <= target.at_most)
