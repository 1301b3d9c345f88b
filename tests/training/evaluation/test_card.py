"""The model card says what a reader must know, and its figures are those of the evaluation."""

import json
import re

import pytest

from tests.training.conftest import SmokeChain


@pytest.fixture(scope="module")
def card(smoke_chain: SmokeChain) -> str:
    """The published card."""
    return smoke_chain.version.read("MODEL_CARD.md").decode()


@pytest.mark.parametrize(
    "section",
    [
        "Intended use",
        "Data",
        "Training",
        "Figures",
        "By class",
        "Calibration and threshold",
        "Refer, low risk or abstain",
        "By group",
        "For whom it is not shown to work",
        "Robustness",
        "Stability",
        "How a picture becomes square",
        "Gates",
        "Explanation",
        "Number formats",
        "Limits",
        "How to repeat",
    ],
)
def test_card_has_every_section(card: str, section: str) -> None:
    """In the structure of Mitchell et al."""
    assert re.search(rf"^##+ {section}", card, re.MULTILINE)


@pytest.mark.parametrize(
    "sentence",
    [
        "**Not for**",
        "no medical device",
        "CC BY-NC 4.0",
        "Fitzpatrick I to III",
        "knows nothing about skin",
        "**Skin tones** 0, 1, 2, 3, 4, 5",
        "no evidence for a diagnosis",
    ],
)
def test_card_warns(card: str, sentence: str) -> None:
    """Licence, limits, and that the smoke network is a toy."""
    assert sentence in card


def test_card_figures_are_the_evaluations(smoke_chain: SmokeChain, card: str) -> None:
    """The headline row shows the evaluation's value and interval."""
    test = json.loads(smoke_chain.version.read("evaluation.json"))["test"]
    of = test["collections"]["generated"]["balanced_accuracy"]
    assert f"| Balanced accuracy | {of['value']:.3f} [{of['low']:.3f}, {of['high']:.3f}] |" in card


def test_card_links_resolve_inside_the_version(smoke_chain: SmokeChain, card: str) -> None:
    """Every picture the card shows is a file of the version."""
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", card)
    assert len(links) == 7
    assert set(links) <= set(smoke_chain.version.manifest.files)


def test_tables_are_well_formed(card: str) -> None:
    """Each row of a table has as many cells as its header."""
    for block in re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE):
        assert len({row.count("|") for row in block.splitlines()}) == 1, block
