"""Probabilities -> two diagnoses, malignancy, warnings. Everything specific comes from the manifest."""

from collections.abc import Sequence

from model_store.contract.manifest import Manifest
from model_store.lesions import lesions
from service.schemas import Diagnosis, MalignancyAnswer

_DIGITS = 6  # of a probability in the answer
# Wider than any camera's format: the squashed lesion no longer looks like one that the network has seen.
_EXTREME_ASPECT = 2.2


def two_most_probable(probabilities: Sequence[float], manifest: Manifest) -> tuple[Diagnosis, Diagnosis]:
    """Best first; equal probabilities keep the manifest's order."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    first, second = (_diagnosis(manifest.classes[i], probabilities[i]) for i in order[:2])
    return first, second


def malignancy(probabilities: Sequence[float], manifest: Manifest) -> MalignancyAnswer:
    """Sum over the malignant classes, against the version's threshold."""
    total = sum(p for p, malignant in zip(probabilities, manifest.malignant, strict=True) if malignant)
    threshold = manifest.malignancy.threshold
    return MalignancyAnswer(
        probability=round(min(total, 1.0), _DIGITS),
        threshold=round(threshold, _DIGITS),
        above_threshold=total >= threshold,
    )


def all_probabilities(probabilities: Sequence[float], manifest: Manifest) -> dict[str, float]:
    """Class code -> probability."""
    return {code: round(p, _DIGITS) for code, p in zip(manifest.classes, probabilities, strict=True)}


def picture_warnings(width: int, height: int, manifest: Manifest) -> list[str]:
    """What the picture's shape says against relying on the answer; sizes in pixels."""
    contract, found = manifest.preprocessing, []
    if width < contract.width or height < contract.height:
        found.append(
            f"The picture is small ({width} x {height} pixels; the network looks at {contract.width} x "
            f"{contract.height}): fine structures are missing and the answer is less reliable."
        )
    if max(width, height) > _EXTREME_ASPECT * min(width, height):
        found.append("The picture is unusually long and narrow: the lesion's shape may be misjudged.")
    return found


def _diagnosis(code: str, probability: float) -> Diagnosis:
    lesion = lesions()[code]
    return Diagnosis(code=code, name=lesion.name, probability=round(probability, _DIGITS), malignant=lesion.malignant)
