"""A run may train on from an earlier one's weights, if no picture can leak from its training into a test."""

import csv
from io import StringIO
from pathlib import Path

import pytest
import torch

from tests.training.conftest import SmokeChain, continued
from training.__main__ import EXPECTED_FAILURE, main
from training.config import Distillation, read_config
from training.earlier import all_teachers
from training.train import LOG, TEACHERS_LOGITS, distance_to_teachers


@pytest.fixture(scope="module")
def continued_chain(smoke_chain: SmokeChain, tmp_path_factory: pytest.TempPathFactory) -> SmokeChain:
    """A run that starts from the smoke run and only trains."""
    folder = tmp_path_factory.mktemp("continued")
    chain = SmokeChain(folder / "store", smoke_chain.run.with_name("continued"))
    config = continued(folder, smoke_chain.run.name)
    assert main((str(config), "--store", str(chain.store), "--run", str(chain.run), "--train-only")) == 0
    return chain


def test_a_run_goes_on_from_another(smoke_chain: SmokeChain, continued_chain: SmokeChain) -> None:
    """It starts where the first ended: its loss is far below a fresh start's."""
    first_losses = [
        float(next(csv.DictReader(StringIO((chain.run / LOG).read_text())))["train_loss"])
        for chain in (smoke_chain, continued_chain)
    ]
    assert first_losses[1] < first_losses[0] / 2


def test_a_version_records_what_it_started_from(smoke_chain: SmokeChain, pupil_chain: SmokeChain) -> None:
    """Both runs' records are in it, and the card says so."""
    version = pupil_chain.version
    assert version.read("start/run.json") == (smoke_chain.run / "run.json").read_bytes()
    assert version.read("start/log.csv") == (smoke_chain.run / LOG).read_bytes()
    assert "start/" in version.read("MODEL_CARD.md").decode()


def test_another_split_is_refused(smoke_chain: SmokeChain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that were trained on another split may have seen this one's test pictures."""
    config = continued(tmp_path, smoke_chain.run.name, **{"test_share = 0.25": "test_share = 0.36"})
    run = smoke_chain.run.with_name("refused")
    assert main((str(config), "--store", str(tmp_path), "--run", str(run))) == EXPECTED_FAILURE
    assert "another split" in capsys.readouterr().err


def test_a_run_learns_from_teachers(smoke_chain: SmokeChain, pupil_chain: SmokeChain) -> None:
    """The version records its teachers, and the run keeps their answers: a resumed run needs them no more."""
    version = pupil_chain.version
    name = f"teachers/{smoke_chain.run.name}/run.json"
    assert version.read(name) == (smoke_chain.run / "run.json").read_bytes()
    assert "arXiv:1503.02531" in version.read("MODEL_CARD.md").decode()
    assert (pupil_chain.run / TEACHERS_LOGITS).exists()


def test_the_teachers_of_a_start_are_teachers_too(
    smoke_chain: SmokeChain, pupil_chain: SmokeChain, tmp_path: Path
) -> None:
    """A version needs the records of every run that it comes from, each once."""
    config = read_config(continued(tmp_path, pupil_chain.run.name))
    own = Distillation(teachers=(pupil_chain.run.name, smoke_chain.run.name), weight=0.5, temperature=2)
    beside = pupil_chain.run.with_name("next")
    assert all_teachers(beside, config) == [smoke_chain.run]
    assert all_teachers(beside, config.model_copy(update={"distillation": own})) == [pupil_chain.run, smoke_chain.run]


def test_only_training_publishes_nothing(continued_chain: SmokeChain) -> None:
    """A teacher is trained for its answers: no release, no version."""
    assert (continued_chain.run / LOG).exists()
    assert not continued_chain.store.exists()


def test_equal_answers_are_no_distance_apart() -> None:
    """The pupil is moved where it differs from its teachers, and nowhere else; softening keeps the gradients' size."""
    distillation = Distillation(teachers=("a",), weight=0.5, temperature=2.0)
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    assert distance_to_teachers(logits, logits + 3, distillation).item() == pytest.approx(0, abs=1e-6)
    assert distance_to_teachers(logits, logits.flip(1), distillation).item() > 1


def test_a_missing_start_is_told(smoke_chain: SmokeChain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the run that has to be trained first."""
    config, run = continued(tmp_path, "nothing"), smoke_chain.run.with_name("missing")
    assert main((str(config), "--store", str(tmp_path), "--run", str(run))) == EXPECTED_FAILURE
    assert "'nothing'" in capsys.readouterr().err
