"""Pictures reach the network as they will reach it in the service."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.contract.golden import preprocess_encoded
from tests.training.builders import picture, save_picture
from training.config import Config, Input
from training.render import Renderer, at_aspect, contract_of


def test_files_go_through_the_contract(tmp_path: Path, smoke_config: Config) -> None:
    """What is rendered equals the contract's own preprocessing of the file's bytes."""
    save_picture(tmp_path / "a.jpg", 120, 90)
    contract = contract_of(smoke_config.input)
    drawn = picture("a", "nv", collection="generated", file=tmp_path / "a.jpg")
    rendered = Renderer(smoke_config, contract).render(drawn)
    assert np.array_equal(rendered, preprocess_encoded((tmp_path / "a.jpg").read_bytes(), contract))


def test_batches_keep_the_order(tmp_path: Path, smoke_config: Config) -> None:
    """Picture i of the answer is picture i of the question, over several batches."""
    pictures = []
    for grey in range(0, 250, 5):
        file = tmp_path / f"{grey}.png"
        Image.new("RGB", (10, 10), (grey, grey, grey)).save(file)
        pictures.append(picture(file.stem, "nv", collection="generated", file=file))
    batches = list(Renderer(smoke_config, contract_of(smoke_config.input)).batches(pictures))
    assert [len(batch) for batch in batches] == [32, 18]
    assert np.concatenate(batches)[:, 0, 0, 0].tolist() == list(range(0, 250, 5))


@pytest.mark.parametrize(
    ("size", "aspect", "expected"),
    [
        pytest.param((224, 224), 4 / 3, (299, 224), id="squashed copy is widened"),
        pytest.param((224, 224), 0.75, (224, 299), id="squashed portrait is heightened"),
        pytest.param((600, 450), 1.3333, (600, 450), id="original is left alone"),
        pytest.param((300, 200), None, (300, 200), id="no fixed aspect"),
    ],
)
def test_true_aspect_is_restored(size: tuple[int, int], aspect: float | None, expected: tuple[int, int]) -> None:
    """Squashed copies are stretched back without losing pixels."""
    assert at_aspect(Image.new("RGB", size), aspect).size == expected


def test_squashed_copy_is_unsquashed_before_padding(tmp_path: Path, smoke_config: Config) -> None:
    """Padding a square copy of a 4:3 picture leaves the black bars that the original would get."""
    data = smoke_config.data.model_copy(
        update={"collections": (smoke_config.data.collections[0].model_copy(update={"aspect": 4 / 3}),)}
    )
    config = smoke_config.model_copy(update={"data": data})
    Image.new("RGB", (64, 64), (200, 200, 200)).save(tmp_path / "a.png")
    rendered = Renderer(config, contract_of(Input(pixels=64, resize="pad", mirror=False))).render(
        picture("a", "nv", collection="generated", file=tmp_path / "a.png")
    )
    assert rendered[:8].max() == 0
    assert rendered[8:56].min() == 200
