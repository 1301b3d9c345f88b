"""A killed training goes on as if nothing had happened, and never mixes two runs."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.builders import data_of, hospital_folder, picture
from tests.training.conftest import SMOKE_CONFIG, SmokeChain
from training.__main__ import main
from training.config import Collection, Config, Stage
from training.data import CLASSES, LoadedPictures, load_pictures, read_collections
from training.errors import ResumeError
from training.train import CHECKPOINT, LOG, Trainer, _mixed, log_priors

ROOT = SMOKE_CONFIG.parents[2]
TIMINGS = {"images_per_second", "seconds"}


def log_of(run: Path) -> list[dict[str, str]]:
    """The training log without what differs between any two runs."""
    with (run / LOG).open() as file:
        return [{name: value for name, value in row.items() if name not in TIMINGS} for row in csv.DictReader(file)]


def start_and_kill_after_first_epoch(run: Path, store: Path) -> None:
    """`python -m training`, ended by SIGKILL as soon as its first checkpoint is there."""
    command = [sys.executable, "-m", "training", str(SMOKE_CONFIG), "--store", str(store), "--run", str(run)]
    # As many threads as this process uses: another number rounds differently.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not (run / CHECKPOINT).exists():
            assert process.poll() is None, "the training ended before its first checkpoint"
            assert time.monotonic() < deadline, "no checkpoint in time"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_killed_training_ends_with_the_same_figures(smoke_chain: SmokeChain, tmp_path: Path) -> None:
    """SIGKILL after the first epoch, then --resume: the log and the graph equal those of the uninterrupted run."""
    run, store = tmp_path / "run", tmp_path / "store"
    start_and_kill_after_first_epoch(run, store)
    assert len(log_of(run)) < len(log_of(smoke_chain.run))
    assert main((str(SMOKE_CONFIG), "--store", str(store), "--run", str(run), "--resume")) == 0
    assert log_of(run) == log_of(smoke_chain.run)
    published = store / "smoke" / "1" / "model.onnx"
    assert published.read_bytes() == smoke_chain.version.read("model.onnx")


@pytest.fixture
def tiny(tmp_path: Path, smoke_config: Config) -> tuple[Config, LoadedPictures, dict[str, str]]:
    """Eight pictures and a configuration of one epoch at 32 pixels."""
    rows = [{"image_id": f"i{n}", "dx": CLASSES[n % 7]} for n in range(8)]
    hospital_folder(tmp_path / "clinic", rows)
    data = data_of(Collection(name="clinic", path="clinic"))
    train = smoke_config.train.model_copy(update={"stages": (Stage(epochs=1, pixels=32),), "batch_size": 4})
    loaded = load_pictures(read_collections(data, tmp_path), data)
    parts = {p.image_id: "train" if n < 6 else "validation" for n, p in enumerate(loaded.pictures)}
    return smoke_config.model_copy(update={"data": data, "train": train}), loaded, parts


def test_checkpoint_of_another_run_is_refused(
    tmp_path: Path, tiny: tuple[Config, LoadedPictures, dict[str, str]]
) -> None:
    """Another configuration or other data never continue somebody else's weights."""
    Trainer(*tiny, "identity one", tmp_path).fit()
    assert Trainer(*tiny, "identity one", tmp_path).resume() == 1
    with pytest.raises(ResumeError, match="another configuration or other data"):
        Trainer(*tiny, "identity two", tmp_path).resume()


def test_damaged_checkpoint_is_an_expected_failure(
    tmp_path: Path, tiny: tuple[Config, LoadedPictures, dict[str, str]]
) -> None:
    """A file that is no checkpoint is named in one sentence."""
    (tmp_path / CHECKPOINT).write_bytes(b"half a checkpoint")
    with pytest.raises(ResumeError, match="cannot be read"):
        Trainer(*tiny, "identity", tmp_path).resume()


def test_no_checkpoint_means_the_start(tmp_path: Path, tiny: tuple[Config, LoadedPictures, dict[str, str]]) -> None:
    """Resuming a run that was killed in its first epoch starts it."""
    assert Trainer(*tiny, "identity", tmp_path).resume() == 0


def test_priors_are_of_each_collections_training_part() -> None:
    """The network is told each collection's own class mix; half a picture stands in for a class that is absent."""
    pictures = (picture("a", "nv"), picture("b", "nv"), picture("c", "mel"), picture("d", "bcc", collection="other"))
    priors = np.exp(log_priors(pictures, torch.tensor([0, 1, 3])).numpy())
    assert priors.sum(axis=1) == pytest.approx(np.ones(4))
    assert priors[0] == pytest.approx(priors[2])
    assert priors[0][CLASSES.index("nv")] == pytest.approx(2.5 / 5.5)
    assert priors[3][CLASSES.index("bcc")] == pytest.approx(1.5 / 4.5)


def test_mixup_mixes_pictures_and_diagnoses_alike() -> None:
    """A picture's share is its diagnosis's and its prior's share; the picture itself keeps the larger part."""
    torch.manual_seed(0)
    n = 16
    targets = torch.eye(n)  # every picture a diagnosis of its own: the row tells what was mixed
    images, mixed, priors = _mixed(torch.arange(n).view(-1, 1, 1, 1).float(), targets, -targets, 0.4)
    assert torch.allclose(mixed.sum(1), torch.ones(n))
    assert (mixed.diagonal() >= 0.5).all()
    assert (mixed.diagonal() < 0.999).any()
    assert torch.allclose(images.flatten(), mixed @ torch.arange(n).float(), atol=1e-4)
    assert torch.equal(priors, -mixed)


def test_without_mixup_nothing_is_drawn() -> None:
    """A configuration without it takes the same random path as before it existed."""
    state, images = torch.get_rng_state(), torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert _mixed(images, torch.eye(2), torch.eye(2), 0.0)[0] is images
    assert torch.equal(state, torch.get_rng_state())
