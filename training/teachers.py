"""Learning from other networks' answers beside the diagnoses (Hinton et al., arXiv:1503.02531)."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from training.config import Distillation
from training.data import CLASSES
from training.earlier import teacher
from training.network import autocast

# (indices of the batch's pictures, the pictures as the pupil sees them, float32 [n, 3, H, W]) -> logits [n, classes]
Taught: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class LookingTeachers:
    """The finished runs that a run learns from. They look at what it looks at: the same changed, mixed picture.

    Beyer et al. (arXiv:2106.05237): answers to the pictures as they are teach less. Teachers were trained on those and
    know their diagnoses by heart; how sure they are of a changed one is what they have learnt.
    """

    def __init__(self, distillation: Distillation, runs: Path, identity: str, device: torch.device) -> None:
        """`runs` holds the teachers' folders. Raises ResumeError as `earlier.teacher` does."""
        self._device = device
        networks = [teacher(runs / name, identity, len(CLASSES)) for name in distillation.teachers]
        for network in networks:
            network.mirror = False  # views are random already
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # mypy: not in the stub
        self._networks = networks

    @torch.inference_mode()
    def __call__(self, batch: Tensor, images: Tensor) -> Tensor:
        """The mean of their logits, float32 [n, classes]."""
        with autocast(self._device):
            return torch.stack([network(images).float() for network in self._networks]).mean(0)


def distance(logits: Tensor, taught: Tensor, distillation: Distillation) -> Tensor:
    """Kullback-Leibler divergence of softened answers, mean over the batch; both [n, classes] without any prior.

    Times the square of the temperature, so that its gradients are of the size of the diagnoses' (Hinton et al.).
    """
    temperature = distillation.temperature
    ours, theirs = (functional.log_softmax(x / temperature, 1) for x in (logits, taught))
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
