"""Which engine serves: what an operator fixes, what was measured, and the rule that takes the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from model_store.contract.manifest import VariantName

VariantChoice = Literal["auto", "fp32", "int8"]
Count = Annotated[int, Field(ge=1)]
Figure = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# Rates this close to the best differ by less than two measurements of the same do; the faster answer decides then.
_AS_GOOD = 0.95
# A session of more threads holds the weights once more: a lone picture must be answered this much sooner for it.
_SOONER = 0.9


@dataclass(frozen=True)
class Wishes:
    """What the operator has fixed; the rest is measured. Batches are never larger than `max_batch_size`."""

    variant: VariantChoice = "auto"
    threads_per_session: int | None = None
    workers: int | None = None
    max_batch_size: int = 8

    @property
    def set_by_hand(self) -> tuple[str, ...]:
        """Names of the settings that leave nothing to choose."""
        fixed = {
            "variant": self.variant != "auto",
            "threads_per_session": self.threads_per_session is not None,
            "workers": self.workers is not None,
        }
        return tuple(name for name, by_hand in fixed.items() if by_hand)


@dataclass(frozen=True)
class Candidate:
    """A way to run the version: `workers` batches at once, each computed by `threads_per_session` threads."""

    variant: VariantName
    threads_per_session: Count
    workers: Count


@dataclass(frozen=True)
class Measured:
    """A candidate with one batch size, all its workers busy.

    `inference_seconds` of one batch in the network; `pictures_per_second` of all workers, decoding included;
    `alone_seconds` of one picture, decoding included, while nothing else runs; `rounds`: how often it was measured.
    All for a machine that does nothing else: where one thread computes a session, its processor time is what counts.
    """

    variant: VariantName
    threads_per_session: Count
    workers: Count
    batch_size: Count
    inference_seconds: Figure
    pictures_per_second: Figure
    alone_seconds: Figure
    rounds: Count

    @property
    def candidate(self) -> Candidate:
        """What was measured."""
        return Candidate(self.variant, self.threads_per_session, self.workers)


@dataclass(frozen=True)
class Choice:
    """What serves, and why. `refused`: by variant, why its answers are not trusted on this processor.

    `threads_alone`: threads that compute a picture in the network when there is no other work.
    `inference_seconds`: one batch, by its size, while all workers are busy. `batching_gain`: how many times as many
    pictures a second the network does in its best batch size as one by one. `quick`: measured beside the traffic, on
    single pictures.
    """

    variant: VariantName
    threads_per_session: Count
    workers: Count
    threads_alone: Count
    inference_seconds: dict[Count, Figure]
    batching_gain: Figure
    pictures_per_second: Figure
    measured: list[Measured]
    refused: dict[VariantName, str]
    set_by_hand: tuple[str, ...]
    cached: bool = False
    quick: bool = False


def choose(measured: Sequence[Measured], refused: dict[VariantName, str], set_by_hand: tuple[str, ...]) -> Choice:
    """The most pictures a second; of those within 5 % of it, the one that answers a single picture soonest."""
    enough = _AS_GOOD * max(m.pictures_per_second for m in measured)
    good = [m for m in measured if m.pictures_per_second >= enough]
    best = min(good, key=lambda m: (m.alone_seconds, -m.pictures_per_second))
    alone = min((m for m in measured if m.variant == best.variant), key=lambda m: m.alone_seconds)
    sooner = alone.alone_seconds <= _SOONER * best.alone_seconds
    sizes = [m for m in measured if m.candidate == best.candidate]
    seconds = {m.batch_size: m.inference_seconds for m in sizes}
    return Choice(
        variant=best.variant,
        threads_per_session=best.threads_per_session,
        workers=best.workers,
        threads_alone=(alone if sooner else best).threads_per_session,
        inference_seconds=seconds,
        batching_gain=seconds[1] / min(s / size for size, s in seconds.items()),
        pictures_per_second=max(m.pictures_per_second for m in sizes),
        measured=list(measured),
        refused=refused,
        set_by_hand=set_by_hand,
    )
