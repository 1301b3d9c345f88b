"""What a request asks for beside the answer itself: `explain` and `prevalence`, in the query or as multipart fields."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import InvalidRequestError

FIRST = "first"  # explain the most probable class
NAMES = ("explain", "prevalence")


@dataclass(frozen=True)
class Options:
    """`explain`: a class code, FIRST or None; `prevalence`: malignant share where the picture was taken, or None."""

    explain: str | None = None
    prevalence: float | None = None

    def joined(self, other: "Options") -> "Options":
        """Both places together. Raises InvalidRequestError where they contradict each other."""
        for name in NAMES:
            here, there = getattr(self, name), getattr(other, name)
            if None not in (here, there) and here != there:
                raise InvalidRequestError(f"{name} is given twice, with different values")
        return Options(
            explain=other.explain if self.explain is None else self.explain,
            prevalence=other.prevalence if self.prevalence is None else self.prevalence,
        )


def read_options(given: Sequence[tuple[str, str]]) -> Options:
    """Name and value pairs, of which only NAMES are looked at. Raises InvalidRequestError; quotes no value."""
    found = Options()
    for name, value in given:
        if name == "explain":
            found = found.joined(Options(explain=value))
        elif name == "prevalence":
            found = found.joined(Options(prevalence=_prevalence(value)))
    return found


def require_known(options: Options, classes: Sequence[str]) -> None:
    """Raises InvalidRequestError when a class is to be explained that the model does not know."""
    if options.explain not in (None, FIRST, *classes):
        raise InvalidRequestError(f"explain must be '{FIRST}' or one of the classes {', '.join(classes)}")


def _prevalence(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:  # so that NaN fails too
        raise InvalidRequestError("prevalence must be a number between 0 and 1, both excluded")
    return value
