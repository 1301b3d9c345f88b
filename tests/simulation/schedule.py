"""What happens in one simulated run: everything about callers and faults, drawn from a seed.

Times are small whole numbers, so that arrivals, departures, deadlines and answers often fall into the same moment.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf


class Nature(Enum):
    """What `work` makes of an item."""

    GOOD = "good"
    REJECTED = "rejected"  # its outcome is a ServiceError of its own
    BROKEN = "broken"  # its outcome is an exception that nobody foresaw
    POISON = "poison"  # every batch that it is in fails


class Fault(Enum):
    """What goes wrong with a batch, whatever is in it."""

    NONE = "none"
    RAISES = "raises"
    ENDS_THREAD = "ends thread"  # SystemExit
    ENDS_ITERATION = "ends iteration"  # StopIteration, which asyncio's own bridge to threads cannot carry
    TOO_FEW = "too few outcomes"
    TOO_MANY = "too many outcomes"
    NO_OUTCOMES = "None for outcomes"
    CANCELLED = "cancelled"  # the executor was shut down with `cancel_futures`


@dataclass(frozen=True, slots=True)
class Caller:
    """One request. Times are absolute virtual seconds."""

    number: int
    nature: Nature
    arrives: float
    deadline: float
    leaves: float  # infinite: it stays
    turns: int  # of the event loop, from the moment of leaving to the departure: before, with or after an answer


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run, but for what the dice still decide while it goes: durations, faults, limits, ties."""

    callers: Sequence[Caller]
    workers: int
    ahead: int  # batches that the executor may hold beyond those it works on
    queue_limit: int
    batch_limit_max: int
    slowness: int  # most seconds of an ordinary batch
    hanging_share: float  # of the batches, which take HANGING_SECONDS
    fault_share: float
    refusal_share: float  # of the jobs, which the executor does not take
    drains_at: float


HANGING_SECONDS = 40
_BAD = (Nature.REJECTED, Nature.BROKEN, Nature.POISON)


def draw(dice: random.Random) -> Schedule:
    """A schedule: from one lone caller to a crowd at a full queue, from a sound engine to a failing one."""
    share = dice.random
    horizon = dice.choice((0, 4, 12, 30))
    bad_share, leaving_share = dice.choice((0, 0.1, 0.5)), dice.choice((0, 0.2, 0.7))
    patience = dice.choice((5, 20, 60))

    def caller(number: int) -> Caller:
        arrives = int(share() * (horizon + 1))
        stays = share() >= leaving_share
        return Caller(
            number=number,
            nature=_BAD[int(share() * 3)] if share() < bad_share else Nature.GOOD,
            arrives=arrives,
            deadline=inf if share() < 0.1 else arrives + int(share() * (patience + 1)),
            leaves=inf if stays else arrives + int(share() * 8),
            turns=int(share() * 5),
        )

    return Schedule(
        callers=[caller(number) for number in range(1 + int(share() ** 1.5 * 25))],
        workers=dice.choice((1, 1, 2, 4)),
        ahead=dice.choice((0, 1, 1, 2)),
        queue_limit=dice.choice((2, 6, 1000, 1000)),
        batch_limit_max=dice.choice((1, 8, 16)),
        slowness=dice.choice((0, 3, 8)),
        hanging_share=dice.choice((0, 0, 0.1)),
        fault_share=dice.choice((0, 0, 0.1, 0.6)),
        refusal_share=dice.choice((0, 0, 0, 0.2)),
        drains_at=int(share() * (horizon + 10)),
    )
