"""The gate stops what is worse, says why, and records who was told so and went on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from model_store.errors import GateRefusedError
from model_store.gate import Gate, Judgement, judge, read_evaluation, read_gate
from model_store.promotion import Evidence, judged, refused
from model_store.signatures import TrustPolicy
from model_store.store import PRODUCTION, SHIPPED, ModelStore
from tests.model_store.builders import evaluation, fields, runnable_fields, runnable_files

NO_KEYS = Evidence(TrustPolicy())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Version 1 serves; 2 is better, 3 worse within the limits, 4 below them."""
    made = ModelStore(tmp_path_factory.mktemp("gate") / "store")
    for accuracy in (0.75, 0.80, 0.72, 0.60):
        made.publish(runnable_files(accuracy), runnable_fields())
    made.promote("lesion7", "1")
    return made


def lines(store: ModelStore, version: str, **evidence: Any) -> dict[str, Judgement]:
    found = judged(store, "lesion7", version, PRODUCTION, read_gate(), dataclasses.replace(NO_KEYS, **evidence))
    return {line.name: line for line in found}


def test_a_better_version_passes(store: ModelStore) -> None:
    """Every line is passed or cannot be judged."""
    assert refused(list(lines(store, "2").values())) == []


def test_a_worse_one_is_stopped_with_the_reasons(store: ModelStore) -> None:
    """Below the floor: each failed line shows what was found, what was wanted and why."""
    found = lines(store, "4")
    assert set(refused(list(found.values()))) == {
        "balanced accuracy",
        "balanced accuracy, lower end of its interval",
        "sensitivity of the worst class",
    }
    line = found["balanced accuracy"]
    assert (line.found, line.wanted) == ("0.6000", ">= 0.7300 (production 0.7500, may lose 0.02)")


def test_a_loss_against_production_is_stopped_above_the_floor(store: ModelStore) -> None:
    """Good enough by itself, and yet worse than what serves now."""
    assert refused(list(lines(store, "3").values())) == ["balanced accuracy"]


def test_other_test_pictures_are_not_compared(store: ModelStore) -> None:
    """Figures on another split say nothing of a loss: only the floor holds."""
    other = fields()["provenance"] | {"split_digest": "sha256:" + "1" * 64}
    version = store.publish(runnable_files(0.72), runnable_fields(provenance=other))
    found = {line.name: line for line in judge(read_gate(), version, store.open("lesion7", "1"), None)}
    assert (found["balanced accuracy"].passed, found["balanced accuracy"].wanted) == (True, ">= 0.7")


def test_a_version_without_evaluation_fails(store: ModelStore) -> None:
    """What was not measured was not shown; only optional lines let it be."""
    files = {name: data for name, data in runnable_files().items() if name != "evaluation.json"}
    found = judge(read_gate(), store.publish(files, runnable_fields()), None, None)
    optional = {line.name for line in read_gate().lines if line.optional}
    assert {line.name for line in found if line.passed is None} == optional
    assert all(line.passed is not True for line in found)


def test_the_worst_of_several_counts_if_it_is_large_enough(store: ModelStore) -> None:
    """The worst age group is named; one with too few malignant lesions to say anything is left out."""
    content = evaluation(0.75)
    ages = content["test"]["groups"]["age"]
    ages["few"]["malignant_sensitivity"] = {"value": 0.1}
    ages["worse"] = {**ages["one"], "malignant_sensitivity": {"value": 0.8}}
    files = {**runnable_files(), "evaluation.json": json.dumps(content).encode()}
    found = judge(read_gate(), store.publish(files, runnable_fields()), None, None)
    (line,) = [line for line in found if line.name == "malignant found in the worst age group"]
    assert (line.passed, line.found) == (True, "0.8000 (worse)")


@pytest.mark.parametrize(
    ("limit", "content", "passed"),
    [
        ({"minimum": 0.5}, {"figure": 0.5}, True),
        ({"minimum": 0.5}, {"figure": 0.499}, False),
        ({"maximum": 0.5}, {"figure": 0.5}, True),
        ({"maximum": 0.5}, {"figure": 0.501}, False),
        ({"minimum": 0.5}, {"figure": True}, False),
        ({"maximum": 0.5}, {"figure": float("nan")}, False),
        ({"minimum": 0.5}, {}, False),
        ({"minimum": 0.5, "optional": True}, {}, None),
        ({"minimum": 0.5, "figure": "*.figure", "enough": {"lesions": 9}}, {"a": {"lesions": 9, "figure": 0.5}}, True),
        ({"minimum": 0.5, "figure": "*.figure", "enough": {"lesions": 9}}, {"a": {"lesions": 8, "figure": 0.5}}, False),
    ],
)
def test_a_line_passes_on_its_limit_and_fails_without_a_figure(
    tmp_path: Path, limit: dict[str, Any], content: dict[str, Any], passed: bool | None
) -> None:
    """What is no number, or of too few, is no figure; only a line that says so may lack one."""
    line = {"name": "a line", "report": "evaluation", "figure": "figure", "why": "", **limit}
    gate = Gate.model_validate({"applies_to": [PRODUCTION], "signature": "required", "line": [line]})
    files = {**runnable_files(), "evaluation.json": json.dumps(content).encode()}
    version = ModelStore(tmp_path / "store").publish(files, runnable_fields())
    assert [judgement.passed for judgement in judge(gate, version, None, None)] == [passed]


def test_the_serving_version_is_judged_like_any_other() -> None:
    """The released production version reaches what the gate asks of the next one."""
    version = ModelStore(SHIPPED).open("lesion7", PRODUCTION)
    assert read_evaluation(version)
    assert refused(judge(read_gate(), version, version, None)) == []


GOOD_SHADOW = {"pictures": 500, "same_first_diagnosis": 0.95, "malignancy_flips": 0.01, "latency_p99_ratio": 1.0}


def test_a_shadow_run_counts_when_there_is_one(store: ModelStore) -> None:
    """Its figures are lines like the others; another version's report is refused."""
    digest = store.open("lesion7", "2").digest
    beside = {"serving": {"digest": store.open("lesion7", "1").digest}, "candidate": {"digest": digest}}
    good = lines(store, "2", shadow={**beside, **GOOD_SHADOW})
    assert good["shadow: same first diagnosis"].passed
    slow = lines(store, "2", shadow={**beside, **GOOD_SHADOW, "latency_p99_ratio": 2.0})
    assert refused(list(slow.values())) == ["shadow: latency p99 against production's"]
    with pytest.raises(GateRefusedError, match="of another version"):
        lines(store, "1", shadow={**beside, **GOOD_SHADOW})
    with pytest.raises(GateRefusedError, match="beside another version"):
        lines(store, "2", shadow={**beside, **GOOD_SHADOW, "serving": {"digest": digest}})


def test_another_alias_asks_for_safety_alone(store: ModelStore) -> None:
    """A candidate must be run to be judged: figures do not keep it from the shadow."""
    found = judged(store, "lesion7", "4", "candidate", read_gate(), NO_KEYS)
    assert refused(found) == []
    assert {line.name for line in found} == {"signature", "safe graph", "golden answers, fp32", "golden answers, int8"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("= 3", "not TOML"),
        ('applies_to = []\nsignature = "perhaps"\nline = []', "signature"),
        (
            'applies_to = []\nsignature = "required"\n[[line]]\nname = "x"\nreport = "shadow"\nfigure = "x"\nwhy = ""',
            "needs a",
        ),
        (None, "No such file"),
    ],
)
def test_a_gate_that_cannot_be_read_lets_nothing_pass(tmp_path: Path, content: str | None, reason: str) -> None:
    """A wrong gate file is an error, never an open door."""
    file = tmp_path / "gate.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(GateRefusedError, match=reason):
        read_gate(file)
