"""A network that answers as another one once it is computed in 8-bit integers: quantisation-aware training.

The forward pass rounds weights and activations as `quantise` will, the backward pass looks through the rounding (Jacob
et al., arXiv:1712.05877; the straight-through estimator of Bengio et al., arXiv:1308.3432). What is learnt is the other
network's features and diagnoses on training pictures, no labels: int8 shall be the same network, not a better one.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from tqdm import tqdm

from training.network import EfficientNetLite, convolutions_and_norms, fold_batch_norms
from training.render import in_batches

_EPOCHS = 3
_BATCH = 32
_LEARNING_RATE = 3e-5
# The stem and the first blocks work on the largest maps: the others make up for their rounding, in 0.6 of the time.
_FROZEN_BLOCKS = 3
_FOR_MEANS = 64  # pictures whose means correct the biases at first; means need fewer than extremes
RANGES = 256  # pictures that the activations' ranges are measured on


def learn_rounding(network: EfficientNetLite, images: NDArray[np.uint8], seed: int) -> EfficientNetLite:
    """A copy, norms folded, whose weights stay right when they are rounded. `images`: training, uint8 [n, H, W, 3]."""
    plain = fold_batch_norms(network).requires_grad_(False)
    learner = copy.deepcopy(plain).requires_grad_(True)
    learner.fc.requires_grad_(False)  # stays in float
    learner.freeze(_FROZEN_BLOCKS, norms=True)
    _correct_biases(learner, images[:_FOR_MEANS])
    with rounding(learner, images[:RANGES]):
        _learn(learner, plain, images, np.random.default_rng(seed))
    return learner.requires_grad_(True)


def reach(weights: Tensor, groups: int) -> Tensor:
    """What an output channel's int8 range has to hold: [outputs] of weights [outputs, inputs, h, w].

    The largest sum of two neighbours of one sign: as numbers up to 127 they are rounded to a sum of at most 128, and
    255 times that fits into 16 bits. A convolution over more than one place may be computed in any order, so there any
    two may be neighbours. Convolutions by groups are not computed in pairs: their largest weight it is.
    """
    flat = weights.flatten(1)
    if groups > 1:
        return flat.abs().amax(dim=1)
    of_one_sign = torch.stack([flat, -flat]).clamp_min(0)
    if weights.shape[2:] != (1, 1):
        of_one_sign = of_one_sign.sort(dim=2).values[:, :, -2:]
    even = functional.pad(of_one_sign, (0, of_one_sign.shape[2] % 2))
    return even.reshape(2, len(weights), -1, 2).sum(dim=3).amax(dim=(0, 2))


@contextmanager
def rounding(network: EfficientNetLite, images: NDArray[np.uint8]) -> Iterator[None]:
    """Inside the block a folded network computes as its int8 variant will, with ranges measured on `images`."""
    slots = convolutions_and_norms(network)
    sums = {block: _Round8(clipped=False) for block in network.blocks if block.residual}
    for module, _, norm in slots:  # where the folded norms were
        setattr(module, norm, _Round8(clipped=norm != "bn2"))
    hooks = [block.register_forward_hook(lambda _, __, y, to=to: to(y)) for block, to in sums.items()]
    _measure(network, [getattr(module, norm) for module, _, norm in slots] + list(sums.values()), images)
    convolutions = [getattr(module, conv) for module, conv, _ in slots]
    for conv in convolutions:
        parametrize.register_parametrization(conv, "weight", _RoundedWeights(conv.groups))
    try:
        yield
    finally:
        for conv in convolutions:
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=False)
        for hook in hooks:
            hook.remove()
        for module, _, norm in slots:
            setattr(module, norm, nn.Identity())


def _correct_biases(network: EfficientNetLite, images: NDArray[np.uint8]) -> None:
    """A good start: each bias takes back what rounding the weights shifts, (W - rounded W) times the mean input (Nagel
    et al., arXiv:1906.04721, section 4.2). The frozen layers learn no more than this.
    """
    inputs: dict[nn.Conv2d, list[Tensor]] = {conv: [] for conv in network.modules() if isinstance(conv, nn.Conv2d)}
    hooks = [
        conv.register_forward_hook(lambda conv, x, _: inputs[conv].append(x[0].mean(dim=(0, 2, 3)))) for conv in inputs
    ]
    with torch.no_grad():
        for batch in in_batches(images):
            network.feature_map(as_floats(batch))
        for conv, means in inputs.items():
            lost = (conv.weight - _RoundedWeights(conv.groups)(conv.weight)).sum(dim=(2, 3))
            mean = torch.stack(means).mean(dim=0).reshape(conv.groups, -1, 1)
            shift = lost.reshape(conv.groups, -1, lost.shape[1]) @ mean
            assert conv.bias is not None  # the norms are folded
            conv.bias += shift.flatten()
    for hook in hooks:
        hook.remove()


def _measure(network: EfficientNetLite, rounded: list["_Round8"], images: NDArray[np.uint8]) -> None:
    with torch.inference_mode():
        for batch in in_batches(images):
            network.feature_map(as_floats(batch))
    for one in rounded:
        one.measures = False


def _learn(
    learner: EfficientNetLite, plain: EfficientNetLite, images: NDArray[np.uint8], random: np.random.Generator
) -> None:
    steps = _EPOCHS * -(-len(images) // _BATCH)
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with tqdm(total=_EPOCHS * len(images), desc="learning to round", unit=" pictures", mininterval=1) as bar:
        for chosen in (part for _ in range(_EPOCHS) for part in _parts(random.permutation(len(images)))):
            pixels = as_floats(_turned(images[chosen], int(random.integers(8))))
            with torch.no_grad():
                wanted = plain.feature_map(pixels).mean(dim=(2, 3))
            found = learner.feature_map(pixels).mean(dim=(2, 3))
            loss = _difference(found, wanted, plain.fc)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.4f}")
            bar.update(len(chosen))


def _difference(found: Tensor, wanted: Tensor, fc: nn.Module) -> Tensor:
    """Of features [N, 1280], in parts of their own variance, and of what they diagnose."""
    said, right = (functional.log_softmax(fc(features), dim=1) for features in (found, wanted))
    divergence = functional.kl_div(said, right, reduction="batchmean", log_target=True)
    return divergence + (found - wanted).square().mean() / wanted.var(dim=0, correction=0).mean().clamp_min(1e-6)


def _parts(order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return np.array_split(order, range(_BATCH, len(order), _BATCH))


def _turned(images: NDArray[np.uint8], way: int) -> NDArray[np.uint8]:
    """One of the eight ways to lay square pictures down; what is not square keeps its sides."""
    square = images.shape[1] == images.shape[2]
    turned = np.rot90(images, way % 4 if square else 2 * (way % 2), axes=(1, 2))
    return turned[:, :, ::-1] if way >= 4 else turned


def as_floats(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, H, W, 3] -> float32 [n, 3, H, W], what the network takes."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()


class _Round8(nn.Module):
    """Activations to the nearest of 256 values between the smallest and the largest that it has seen."""

    def __init__(self, clipped: bool) -> None:
        super().__init__()
        self.clipped, self.measures = clipped, True
        self.low = self.high = 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.measures:
            clipped = functional.relu6(x) if self.clipped else x
            self.low, self.high = min(self.low, float(clipped.min())), max(self.high, float(clipped.max()))
            return x
        scale = max((self.high - self.low) / 255, 1e-12)
        lowest = round(self.low / scale) * scale  # zero is one of the values
        return _rounded(x.clamp(lowest, lowest + 255 * scale), scale)


class _RoundedWeights(nn.Module):
    """Weights [outputs, inputs, h, w] to int8 with one symmetric scale per output channel."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, weights: Tensor) -> Tensor:
        scale = reach(weights.detach(), self.groups)[:, None, None, None] / 127
        return _rounded(weights, scale.clamp_min(1e-12))


def _rounded(x: Tensor, scale: Tensor | float) -> Tensor:
    found: Tensor = _Round.apply(x, scale)  # type: ignore[no-untyped-call]
    return found


class _Round(torch.autograd.Function):
    """To multiples of a scale; the gradient passes as if nothing were rounded."""

    @staticmethod
    def forward(ctx: object, x: Tensor, scale: Tensor | float) -> Tensor:
        return x.div(scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
