"""A run may train on from an earlier one's weights, if no picture can leak from its training into a test."""

import csv
from io import StringIO
from pathlib import Path

import pytest
import torch

from tests.training.conftest import SmokeChain, continued
from training.__main__ import EXPECTED_FAILURE, main
from training.config import Distillation, read_config
from training.earlier import CHECKPOINT, all_teachers
from training.train import LOG, TEACHERS_LOGITS, disagreement, distance_to_teachers


@pytest.fixture(scope="module")
def continued_chain(smoke_chain: SmokeChain, tmp_path_factory: pytest.TempPathFactory) -> SmokeChain:
    """A run that starts from the smoke run, with larger copies of the pictures, keeps a share of it and only trains."""
    folder = tmp_path_factory.mktemp("continued")
    chain = SmokeChain(folder / "store", smoke_chain.run.with_name("continued"))
    changes = {'name = "smoke"': 'name = "smoke"\nstart_share = 0.25', "cache_pixels = 64": "cache_pixels = 80"}
    config = continued(folder, smoke_chain.run.name, **changes)
    config.write_text(config.read_text() + "\n[consistency]\nweight = 1\n")
    assert main((str(config), "--store", str(chain.store), "--run", str(chain.run), "--train-only")) == 0
    return chain


def test_a_run_goes_on_from_another(smoke_chain: SmokeChain, continued_chain: SmokeChain) -> None:
    """It starts where the first ended: its loss is far below a fresh start's."""
    first_losses = [
        float(next(csv.DictReader(StringIO((chain.run / LOG).read_text())))["train_loss"])
        for chain in (smoke_chain, continued_chain)
    ]
    assert first_losses[1] < first_losses[0] / 2


def test_the_start_keeps_its_share(smoke_chain: SmokeChain, continued_chain: SmokeChain) -> None:
    """What later runs take from a run are its averaged weights and its start's, in the shares asked for."""
    start = torch.load(smoke_chain.run / CHECKPOINT, weights_only=True)["result"]
    state = torch.load(continued_chain.run / CHECKPOINT, weights_only=True)
    learnt = {name: tensor for name, tensor in state["average"].items() if name.startswith("module.")}
    moved = 0.0
    for name, tensor in learnt.items():
        name = name.removeprefix("module.")
        if tensor.is_floating_point():
            moved = max(moved, float((tensor - start[name]).abs().max()))
            torch.testing.assert_close(state["result"][name], 0.25 * start[name] + 0.75 * tensor)
    assert moved > 1e-3


def test_a_checkpoint_without_a_result_is_refused(
    smoke_chain: SmokeChain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As releases before 2026-11-24 wrote it: the message says what to do."""
    old = smoke_chain.run.with_name("old")
    old.mkdir()
    state = torch.load(smoke_chain.run / CHECKPOINT, weights_only=True)
    del state["result"]
    torch.save(state, old / CHECKPOINT)
    run = smoke_chain.run.with_name("from-old")
    assert main((str(continued(tmp_path, "old")), "--store", str(tmp_path), "--run", str(run))) == EXPECTED_FAILURE
    assert "train that run anew" in capsys.readouterr().err


def test_the_teachers_of_a_start_are_teachers_too(
    smoke_chain: SmokeChain, pupil_chain: SmokeChain, tmp_path: Path
) -> None:
    """A version needs the records of every run it comes from, each once."""
    config = read_config(continued(tmp_path, pupil_chain.run.name))
    own = Distillation(teachers=(pupil_chain.run.name, smoke_chain.run.name), weight=0.5, temperature=2)
    beside = pupil_chain.run.with_name("next")
    assert all_teachers(beside, config) == [smoke_chain.run]
    assert all_teachers(beside, config.model_copy(update={"distillation": own})) == [pupil_chain.run, smoke_chain.run]


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


def test_disagreement_is_none_between_equal_answers_and_the_same_both_ways() -> None:
    """Two views of a picture: whichever comes first; how certain both are does not matter, what they say does."""
    ours, theirs = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 2.0, -1.0]])
    assert disagreement(ours, ours + 3).item() == pytest.approx(0, abs=1e-6)
    assert disagreement(ours, theirs).item() == pytest.approx(disagreement(theirs, ours).item())
    probabilities = ours.softmax(1)[0]
    assert disagreement(ours, theirs).item() == pytest.approx(float(2 * (probabilities[0] - probabilities[1])))


def test_a_missing_start_is_told(smoke_chain: SmokeChain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the run that has to be trained first."""
    config, run = continued(tmp_path, "nothing"), smoke_chain.run.with_name("missing")
    assert main((str(config), "--store", str(tmp_path), "--run", str(run))) == EXPECTED_FAILURE
    assert "'nothing'" in capsys.readouterr().err
