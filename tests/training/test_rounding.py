"""Weights learn to be rounded: an int8 graph made of them is nearer to the network than one of its own weights."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.training.test_quantise import FLAT, images
from training.export import OnnxClassifier, export_onnx
from training.gates import GateHead
from training.network import PIXEL_MEAN, PIXEL_SCALE, EfficientNetLite, fold_batch_norms, pretrained
from training.quantise import quantise
from training.rounding import _correct_biases, _RoundedWeights, learn_rounding, reach, rounding

LEARNT_ON = images(1, 256)


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    """With ImageNet weights: real ranges, and a last layer that says something."""
    torch.manual_seed(0)
    network = pretrained("lite0", 7, dropout=0.0, drop_path=0.0).eval()
    torch.nn.init.normal_(network.fc.weight, std=0.1)
    return network


@pytest.fixture(scope="module")
def learnt(network: EfficientNetLite) -> EfficientNetLite:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.rounding._LEARNING_RATE", 1e-6)  # the real rate takes an untrained network too far
        return learn_rounding(network, LEARNT_ON, seed=1)


def answers(graph: bytes) -> NDArray[np.float32]:
    """Logits for pictures that nothing was learnt on, but for their bias."""
    return np.asarray(OnnxClassifier(graph).outputs(images(2, 32))["class_maps"].mean(axis=(2, 3)))


def test_int8_comes_nearer_to_the_network(network: EfficientNetLite, learnt: EfficientNetLite) -> None:
    """On pictures that neither has seen, int8 differs by less than half as much from what the network says."""
    graphs = [export_onnx(one, FLAT, GateHead.placeholder(one.level_channels), 64) for one in (network, learnt)]
    plain, off = answers(graphs[0]), [quantise(graph, LEARNT_ON) for graph in graphs]
    before, after = (np.square(answers(graph) - plain).mean() for graph in off)
    assert after < 0.5 * before


def test_the_network_itself_stays_as_it_is(network: EfficientNetLite, learnt: EfficientNetLite) -> None:
    """Other weights, but in a copy; those of the first blocks and of the last layer, which is float, are the same."""
    torch.manual_seed(0)
    fresh = pretrained("lite0", 7, dropout=0.0, drop_path=0.0).state_dict()
    assert all(torch.equal(t, fresh[name]) for name, t in network.state_dict().items() if not name.startswith("fc."))
    plain, found = fold_batch_norms(network).state_dict(), learnt.state_dict()
    assert plain.keys() == found.keys()
    same = {name for name, t in found.items() if torch.equal(t, plain[name])}
    frozen = {name for name in plain if name.startswith(("conv_stem", "blocks.0.", "blocks.1.", "blocks.2."))}
    assert same == {name for name in frozen if name.endswith("weight")} | {"fc.weight", "fc.bias"}


def test_what_it_learns_with_is_what_int8_computes(network: EfficientNetLite) -> None:
    """The rounding network's features are those of the int8 graph: far nearer to them than the network's own are."""
    folded = fold_batch_norms(network)
    graph = OnnxClassifier(
        quantise(export_onnx(folded, FLAT, GateHead.placeholder(folded.level_channels), 64), LEARNT_ON)
    )
    pixels = torch.from_numpy(images(2, 32)).permute(0, 3, 1, 2).float()

    def maps() -> NDArray[np.float32]:
        with torch.no_grad():
            weights = folded.fc.weight[:, :, None, None]
            return np.asarray(torch.nn.functional.conv2d(folded.feature_map(pixels), weights))

    served, own = graph.outputs(images(2, 32))["class_maps"], maps()
    with rounding(folded, LEARNT_ON):
        rounded = maps()
    assert np.array_equal(maps(), own), "after the block nothing is rounded"
    assert np.square(rounded - served).mean() < 0.25 * np.square(own - served).mean()


def test_biases_take_back_what_rounding_shifts(network: EfficientNetLite) -> None:
    """Each bias changes by what its channel's rounded weights lose on a mean input, in any grouping; no weight does."""
    before = fold_batch_norms(network)
    after = fold_batch_norms(network)
    _correct_biases(after, images(3))
    pairs = list(zip(before.named_parameters(), after.named_parameters(), strict=True))
    assert all(torch.equal(a, b) for (name, a), (_, b) in pairs if not name.endswith("bias"))
    with torch.no_grad():
        pixels = torch.from_numpy(images(3)).permute(0, 3, 1, 2).float()
        entering = (pixels - PIXEL_MEAN) / PIXEL_SCALE
        leaving = torch.nn.functional.relu6(before.conv_stem(entering))
        first = (before.conv_stem, after.conv_stem, entering, 1)
        second = (before.blocks[0].depthwise_conv, after.blocks[0].depthwise_conv, leaving, 32)
        for old, new, x, groups in (first, second):
            assert not torch.equal(new.bias, old.bias)
            mean = x.mean(dim=(0, 2, 3))
            lost = (old.weight - _RoundedWeights(groups)(old.weight)).sum(dim=(2, 3))
            for channel in range(32):
                seen = mean if groups == 1 else mean[channel : channel + 1]
                change = (new.bias - old.bias)[channel].item()
                assert change == pytest.approx((lost[channel] * seen).sum().item(), abs=1e-5)


def test_reach_is_the_largest_sum_that_a_kernel_makes() -> None:
    """Neighbours of one sign, anywhere in a window; single weights where a convolution goes by groups."""
    beside = torch.tensor([[3.0, 4, -5, 1], [3, -4, -5, -1]])[:, :, None, None]
    assert reach(beside, 1).tolist() == [7, 6]
    assert reach(beside[:, :3], 1).tolist() == [7, 5]
    assert reach(beside.reshape(2, 1, 2, 2), 1).tolist() == [7, 9]
    assert reach(beside.reshape(2, 1, 2, 2), 2).tolist() == [5, 5]
