"""The network is the published one, and learns a new last layer."""

import pytest
import torch

from training.network import EfficientNetLite, imagenet_weights, pretrained


def test_imagenet_weights_load_strictly() -> None:
    """Every published tensor has its place and none is missing, but for the last layer, which is new."""
    torch.manual_seed(0)
    network = pretrained("lite0", 7, dropout=0.3, drop_path=0.1)
    published = imagenet_weights("lite0")
    ours = network.state_dict()
    assert set(ours) == set(published)
    assert torch.equal(ours["conv_stem.weight"], published["conv_stem.weight"])
    assert ours["fc.weight"].shape == (7, 1280)


def test_imagenet_network_knows_its_classes() -> None:
    """With its own last layer the network is a working ImageNet classifier: a wrong padding or order would show here.

    A disc of one orange colour on black is class 950 (orange) or close to it.
    """
    network = EfficientNetLite("lite0", 1000).eval()
    network.load_state_dict(imagenet_weights("lite0"), strict=True)
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    inside = ((x - 112) ** 2 + (y - 112) ** 2 < 80**2).float()
    image = torch.stack([inside * 255, inside * 140, inside * 10])[None]
    with torch.inference_mode():
        likeliest = network(image).topk(10).indices[0].tolist()
    assert 950 in likeliest


@pytest.mark.parametrize("pixels", [64, 96])
def test_feature_map_is_a_32nd(pixels: int) -> None:
    """[N, 3, S, S] gives [N, 1280, S/32, S/32]; any multiple of 32 is fine."""
    with torch.inference_mode():
        features = EfficientNetLite("lite0", 7).eval().feature_map(torch.zeros(1, 3, pixels, pixels))
    assert features.shape == (1, 1280, pixels // 32, pixels // 32)


def test_larger_variants_can_be_built() -> None:
    """Scaling follows the published coefficients: each variant is larger than the one before."""
    sizes = {v: sum(p.numel() for p in EfficientNetLite(v, 7).parameters()) for v in ("lite0", "lite1", "lite2")}
    assert sizes["lite0"] < sizes["lite1"] < sizes["lite2"]


def test_evaluation_is_deterministic() -> None:
    """Dropout and stochastic depth act in training only."""
    network = EfficientNetLite("lite0", 7, dropout=0.5, drop_path=0.5).eval()
    image = torch.rand(2, 3, 64, 64) * 255
    with torch.inference_mode():
        assert torch.equal(network(image), network(image))
