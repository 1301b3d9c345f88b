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


def drifted(frozen_blocks: int) -> EfficientNetLite:
    """A network whose norms have statistics of their own, then frozen: all norms, and some blocks."""
    torch.manual_seed(0)
    network = EfficientNetLite("lite0", 7, dropout=0.0, drop_path=0.0).train()
    with torch.no_grad():
        network(torch.rand(8, 3, 64, 64) * 255)
    network.freeze(frozen_blocks, norms=True)
    return network


def test_frozen_norms_train_as_they_evaluate() -> None:
    """With frozen statistics training mode computes what evaluation mode does, and leaves the statistics alone."""
    network, image = drifted(0), torch.rand(4, 3, 64, 64) * 255
    before = network.bn1.running_mean.clone()
    with torch.no_grad():
        training, evaluating = network.train()(image), network.eval()(image)
    assert torch.allclose(training, evaluating, atol=1e-4)
    assert torch.equal(before, network.bn1.running_mean)


def test_frozen_blocks_get_no_gradient() -> None:
    """Stem and frozen blocks stay as they are; everything after them learns."""
    network = drifted(3).train()
    network(torch.rand(2, 3, 64, 64) * 255).sum().backward()
    frozen = [network.conv_stem, network.bn0, *network.blocks[:3]]
    assert not any(p.requires_grad or p.grad is not None for module in frozen for p in module.parameters())
    learning = [*network.blocks[3:], network.conv_head, network.bn1, network.fc]
    assert all(p.grad is not None for module in learning for p in module.parameters())


def test_frozen_blocks_want_frozen_norms() -> None:
    """Blocks after a frozen one would learn from other statistics than they are served."""
    with pytest.raises(ValueError, match="frozen norms"):
        EfficientNetLite("lite0", 7).freeze(1, norms=False)


def test_both_views_are_averaged() -> None:
    """With `mirror`, pooled features are the mean over the picture and its mirror image."""
    network, image = pretrained("lite0", 7, 0.0, 0.0).eval(), torch.rand(2, 3, 64, 96) * 255
    with torch.inference_mode():
        plain, mirrored = network.pooled(image), network.pooled(image.flip(3))
        network.mirror = True
        assert torch.allclose(network.pooled(image), (plain + mirrored) / 2, atol=1e-5)
        assert not torch.allclose(plain, mirrored, atol=1e-3)
