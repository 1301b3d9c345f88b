"""The vision transformer that teaches is the published one, and learns as its configuration says."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.training.conftest import SMOKE_CONFIG, SmokeChain, continued
from training.__main__ import EXPECTED_FAILURE, main
from training.config import Distillation, read_config
from training.data import CLASSES
from training.earlier import teacher
from training.errors import ConfigError
from training.provenance import read_record
from training.teachers import LookingTeachers
from training.train import _parameter_groups
from training.transformer import VisionTransformer, _weight_file, dinov2_small

TRANSFORMER = {
    'variant = "lite0"': 'variant = "dinov2-small"',
    "[{ epochs = 1, pixels = 64 }]": "[{ epochs = 1, pixels = 28 }]",
}


@pytest.fixture(scope="module")
def network() -> VisionTransformer:
    return dinov2_small(len(CLASSES), dropout=0.0, drop_path=0.0).eval()


def test_features_are_those_of_the_published_graph(network: VisionTransformer) -> None:
    """The package's own graph, run by ONNX Runtime, has the same tokens behind its backbone's last norm."""
    model, tokens = onnx.load_from_string(_weight_file()), "/backbone/layernorm/Add_1_output_0"
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(tokens))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224)).astype(np.float32)
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
    deviation = np.array([0.229, 0.224, 0.225], np.float32).reshape(1, 3, 1, 1)
    (expected,) = session.run([tokens], {"input_image": (pixels / 255 - mean) / deviation})
    with torch.inference_mode():
        features = network.pooled(torch.from_numpy(pixels)).numpy()
    assert features == pytest.approx(np.concatenate([expected[:, 0], expected[:, 1:].mean(1)], 1), abs=1e-3)


def test_sides_are_brought_to_whole_patches(network: VisionTransformer) -> None:
    """192 pixels are looked at as 196; what is a multiple of 14 stays as it is."""
    pixels = torch.rand(1, 3, 192, 192) * 255
    larger = torch.nn.functional.interpolate(pixels, (196, 196), mode="bilinear", antialias=True)
    with torch.inference_mode():
        assert torch.equal(network(pixels), network(larger))


def test_both_views_are_averaged(network: VisionTransformer) -> None:
    """With `mirror`, features are the mean over the picture and its mirror image."""
    pixels = torch.rand(2, 3, 56, 84) * 255
    with torch.inference_mode():
        plain, mirrored = network.pooled(pixels), network.pooled(pixels.flip(3))
        network.mirror = True
        both = network(pixels)
        network.mirror = False
        assert torch.allclose(both, network.fc((plain + mirrored) / 2), atol=1e-5)


def test_earlier_blocks_learn_more_slowly(tmp_path: Path) -> None:
    """Each block has `layer_decay` of the next one's rate; every weight is in one group, and only matrices decay."""
    config = read_config(continued(tmp_path, "x", **TRANSFORMER, **{"[train]": "[train]\nlayer_decay = 0.5"}))
    network = VisionTransformer(len(CLASSES))
    groups = _parameter_groups(network, config.train)
    shares = {id(p): (g["share"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(shares) == sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
    assert shares[id(network.fc.weight)] == (1, config.train.weight_decay)
    assert shares[id(network.blocks[11].fc1.weight)] == (0.5, config.train.weight_decay)
    assert shares[id(network.blocks[0].fc1.bias)] == (0.5**12, 0)
    assert shares[id(network.positions)] == (0.5**13, 0)


def test_it_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is trained for hours only to fail at its export."""
    config = continued(tmp_path, "x", **TRANSFORMER)
    assert main((str(config), "--store", str(tmp_path / "store"), "--run", str(tmp_path / "run"))) == EXPECTED_FAILURE
    assert "--train-only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"[{ epochs = 1, pixels = 28 }]": "[{ epochs = 1, pixels = 64 }]"}, "no multiple of 14"),
        ({'variant = "dinov2-small"': 'variant = "dinov2-small"\nfrozen_norms = true'}, "no norms with statistics"),
    ],
)
def test_what_does_not_fit_it_is_refused(tmp_path: Path, changes: dict[str, str], reason: str) -> None:
    """A size or an option that only the other networks have is an error, not ignored."""
    with pytest.raises(ConfigError, match=reason):
        read_config(continued(tmp_path, "x", **TRANSFORMER, **changes))


def test_mixed_pictures_need_teachers_who_see_them(tmp_path: Path) -> None:
    """An answer to a picture as it is served is none to two pictures laid over each other."""
    config = continued(tmp_path, "x", **{"[train]": "[train]\nmixup = 0.2"})
    config.write_text(config.read_text() + '\n[distillation]\nteachers = ["a"]\nweight = 0.5\ntemperature = 2\n')
    with pytest.raises(ConfigError, match="same view"):
        read_config(config)


@pytest.mark.slow
def test_a_pupil_sees_what_its_teachers_see(smoke_chain: SmokeChain, tmp_path: Path) -> None:
    """A transformer is trained, and teaches a network of the usual kind on the pictures as that one sees them."""
    config = continued(tmp_path, smoke_chain.run.name, **TRANSFORMER)
    config.write_text(config.read_text().replace(f'start_from = "{smoke_chain.run.name}"\n', ""))
    run, store = smoke_chain.run.with_name("transformer"), tmp_path / "store"
    assert main((str(config), "--store", str(store), "--run", str(run), "--train-only")) == 0
    learning = continued(tmp_path, smoke_chain.run.name)
    teaching = '\n[distillation]\nteachers = ["transformer"]\nweight = 0.5\ntemperature = 2\nlook = "same view"\n'
    learning.write_text(learning.read_text() + teaching)
    pupil = smoke_chain.run.with_name("looking-pupil")
    assert main((str(learning), "--store", str(store), "--run", str(pupil), "--train-only")) == 0
    assert not (pupil / "teachers_logits.npy").exists()


def test_teachers_answer_the_picture_they_are_shown(smoke_chain: SmokeChain) -> None:
    """The mean of their logits, one look each."""
    name, images = smoke_chain.run.name, torch.rand(2, 3, 64, 64) * 255
    identity = read_record(smoke_chain.run).identity
    both = Distillation(teachers=(name, name), weight=0.5, temperature=2, look="same view")
    taught = LookingTeachers(both, smoke_chain.run.parent, identity, torch.device("cpu"))(torch.arange(2), images)
    alone = teacher(smoke_chain.run, identity, len(CLASSES))
    alone.mirror = False
    with torch.inference_mode():
        assert taught.numpy() == pytest.approx(alone(images).numpy(), rel=0.05, abs=0.1)  # computed in bfloat16


def test_the_smoke_configuration_is_of_the_usual_kind() -> None:
    """What the cases above replace is there."""
    assert all(text in SMOKE_CONFIG.read_text() for text in ('variant = "lite0"', "[train]"))
