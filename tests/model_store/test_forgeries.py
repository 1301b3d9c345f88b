"""What is not exactly a good version is refused, each with its own reason."""

from pathlib import Path

from tests.model_store.forgeries import Forger, Forgery, refusal, wrong_refusals


def test_the_good_version_is_accepted(tmp_path: Path) -> None:
    """What the forgeries are made from passes every check: they are refused for what was done to them."""
    assert refusal(Forgery("none", Forger(1).good, "", signed=True), tmp_path) is None


def test_every_forgery_is_refused_with_its_reason() -> None:
    """200 of the generated forgeries; `python -m tests.model_store.forgeries --count 1000` makes more."""
    kinds, wrong = wrong_refusals(seed=1, count=200)
    assert wrong == []
    assert len(kinds) > 60
