"""Fine-tuning: epochs of augmented pictures, an averaged copy of the weights, a checkpoint after every epoch.

Every random number of an epoch follows from the seed and the epoch's number alone, so a run that was killed and
resumed from its last checkpoint takes the same path as one that was not.
"""

import csv
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.augment import augment, served_view
from training.config import Config, Distillation
from training.data import CLASSES, LoadedPictures, Picture
from training.earlier import CHECKPOINT, averaged_weights, teacher, teachers
from training.errors import ResumeError
from training.metrics import balanced_accuracy
from training.network import EfficientNetLite, pretrained

LOG = "log.csv"
TEACHERS_LOGITS = "teachers_logits.npy"


@dataclass(frozen=True)
class EpochLog:
    """One line of the training log; losses are means, rates per second."""

    epoch: int
    pixels: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    validation_balanced_accuracy: float
    images_per_second: float
    seconds: float


class Trainer:
    """One run: network, its average, optimiser, and where it stands. `fit` runs the epochs that are left."""

    def __init__(self, config: Config, loaded: LoadedPictures, parts: dict[str, str], identity: str, run: Path) -> None:
        """`identity` names configuration and data; a checkpoint of another identity is refused."""
        self.config, self.loaded, self.identity, self.run = config, loaded, identity, run
        self.indices = {part: _indices(loaded, parts, part) for part in ("train", "validation")}
        self.labels = torch.tensor([picture.label for picture in loaded.pictures])
        self.log_priors = log_priors(loaded.pictures, self.indices["train"])
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(config.seed)
        network = pretrained(config.network.variant, len(CLASSES), config.network.dropout, config.network.drop_path)
        # mypy: the stub of Module.to lacks memory_format.
        if config.start_from:
            network.load_state_dict(averaged_weights(run.parent / config.start_from, identity))
        network.freeze(config.network.frozen_blocks, config.network.frozen_norms)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = get_ema_multi_avg_fn(config.train.ema_decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimiser = torch.optim.AdamW(
            _parameter_groups(self.network, config.train.weight_decay), lr=config.train.learning_rate
        )
        self.log: list[EpochLog] = []
        self._taught: Tensor | None = None

    @property
    def averaged_network(self) -> EfficientNetLite:
        """The exponential moving average of the weights: what is evaluated and exported."""
        network: EfficientNetLite = self.average.module  # type: ignore[assignment]
        return network.eval()

    def resume(self) -> int:
        """Continue from the checkpoint, if there is one. Returns the number of epochs that are done.

        Raises ResumeError when the checkpoint is damaged or belongs to another configuration or other data.
        """
        file = self.run / CHECKPOINT
        if not file.exists():
            return 0
        try:
            state = torch.load(file, map_location=self.device, weights_only=True)
        except Exception as error:  # the unpickler raises whatever damaged bytes lead it to
            raise ResumeError(f"{file} cannot be read; choose another --run folder to start anew") from error
        if state["identity"] != self.identity:
            raise ResumeError(f"{file} is of another configuration or other data; choose another --run folder")
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.log = [EpochLog(**line) for line in state["log"]]
        return len(self.log)

    def fit(self) -> None:
        """Train the epochs that are left; after each: validate, log, checkpoint."""
        self._taught = self._teachers_answers() if self.config.distillation else None
        for epoch in range(len(self.log), self.config.train.epochs):
            started = time.monotonic()
            train_loss, rate = self._train_epoch(epoch)
            images = self._served(self.indices["validation"], self.config.train.pixels_at(epoch))
            logits = predict_logits(self.averaged_network, images, progress="validating")
            loss, accuracy = self._validation_figures(logits)
            seconds = time.monotonic() - started
            pixels, last_rate = self.config.train.pixels_at(epoch), float(self.optimiser.param_groups[0]["lr"])
            self.log.append(EpochLog(epoch + 1, pixels, last_rate, train_loss, loss, accuracy, rate, seconds))
            self._write_log()
            self._write_checkpoint()
            tqdm.write(
                f"epoch {epoch + 1}/{self.config.train.epochs}: {pixels} px, loss {train_loss:.3f}, "
                f"validation loss {loss:.3f}, balanced accuracy {accuracy:.3f}, {rate:.0f} images/s"
            )

    def _train_epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over the training part. Returns mean loss and images per second."""
        torch.manual_seed(_epoch_seed(self.config.seed, epoch))  # dropout and stochastic depth
        random = torch.Generator().manual_seed(_epoch_seed(self.config.seed, epoch) + 1)  # order and augmentation
        self.network.train()
        batches = self._batches(random)
        started, losses = time.monotonic(), []
        images = sum(map(len, batches))
        with tqdm(total=images, desc=f"epoch {epoch + 1}", unit=" images", mininterval=2) as bar:
            for step, batch in enumerate(batches):
                self._set_learning_rate(epoch * len(batches) + step, len(batches))
                losses.append(self._step(epoch, batch, random))
                bar.update(len(batch))
        return float(np.mean(losses)), images / (time.monotonic() - started)

    def _step(self, epoch: int, batch: Tensor, random: torch.Generator) -> float:
        """Forward, backward, update, average. Returns the batch's loss."""
        pixels = torch.from_numpy(self.loaded.pixels[batch.numpy()])
        aspects = torch.from_numpy(self.loaded.aspects[batch.numpy()])
        size = self.config.train.pixels_at(epoch)
        images = augment(pixels, aspects, size, self.config.augmentation, random).to(self.device)
        targets = functional.one_hot(self.labels[batch], len(CLASSES)).float()
        priors = self.config.train.prior_strength * self.log_priors[batch]
        images, targets, priors = _mixed(images, targets, priors, self.config.train.mixup)
        with autocast(self.device):
            logits = self.network(images).float()
        loss = functional.cross_entropy(logits + priors.to(self.device), targets.to(self.device))
        if self._taught is not None and self.config.distillation is not None:
            apart = distance_to_teachers(logits, self._taught[batch].to(self.device), self.config.distillation)
            loss = torch.lerp(loss, apart, self.config.distillation.weight)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        return loss.item()

    def _teachers_answers(self) -> Tensor:
        """Mean logits of the teachers for the training part, as served and at the largest size; 0 for other pictures.

        float32 [pictures, classes]. Computed once and kept in the run's folder: a resumed run reads them.
        """
        file = self.run / TEACHERS_LOGITS
        if not file.exists():
            size = max(stage.pixels for stage in self.config.train.stages)
            train = self.indices["train"]
            answers = torch.zeros(len(self.loaded.pictures), len(CLASSES))
            runs = teachers(self.run, self.config)
            for run in runs:
                network = teacher(run, self.identity, len(CLASSES)).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                answers[train] += predict_logits(network, self._served(train, size), progress=run.name) / len(runs)
            np.save(file, answers.numpy())
        return torch.from_numpy(np.load(file))

    def _batches(self, random: torch.Generator) -> list[Tensor]:
        """Shuffled indices of the training part; the last, smaller batch is left out, as BatchNorm wants full ones."""
        train = self.indices["train"]
        shuffled = train[torch.randperm(len(train), generator=random)]
        size = min(self.config.train.batch_size, len(train))
        return list(torch.split(shuffled, size)[: len(train) // size])

    def _set_learning_rate(self, step: int, steps_per_epoch: int) -> None:
        total, warmup = self.config.train.epochs * steps_per_epoch, self.config.train.warmup_steps
        factor = (
            (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
        )
        for group in self.optimiser.param_groups:
            group["lr"] = float(self.config.train.learning_rate * factor)

    def _served(self, indices: Tensor, size: int) -> Iterator[Tensor]:
        """Pictures as they will be served, at `size`, as float32 batches."""
        square = self.config.augmentation.square_views
        for batch in torch.split(indices, 64):
            pixels = torch.from_numpy(self.loaded.pixels[batch.numpy()])
            yield served_view(pixels, torch.from_numpy(self.loaded.aspects[batch.numpy()]), size, square)

    def _validation_figures(self, logits: Tensor) -> tuple[float, float]:
        """Loss as in training, and balanced accuracy of the unadjusted logits."""
        indices = self.indices["validation"]
        adjusted = logits + self.config.train.prior_strength * self.log_priors[indices]
        loss = functional.cross_entropy(adjusted, self.labels[indices]).item()
        labels, predicted = self.labels[indices].numpy(), logits.argmax(1).numpy()
        return loss, float(balanced_accuracy(labels, predicted, len(CLASSES), np.ones((1, len(labels))))[0])

    def _write_log(self) -> None:
        rows = [asdict(line) for line in self.log]
        with (self.run / LOG).open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    def _write_checkpoint(self) -> None:
        """Written beside and moved into place: a kill leaves the old checkpoint or the new one."""
        state = {
            "identity": self.identity,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "log": [asdict(line) for line in self.log],
        }
        staged = self.run / f"{CHECKPOINT}.staged"
        torch.save(state, staged)
        staged.replace(self.run / CHECKPOINT)


def log_priors(pictures: tuple[Picture, ...], train: Tensor) -> Tensor:
    """log p(class | collection) of every picture's collection in the training part: float32 [pictures, classes].

    Added to the logits in the loss (Menon et al., arXiv:2007.07314), so that the network learns what speaks for a
    class beyond how frequent the class is in that collection: neither imbalance nor a clinic's mix is learnt.
    """
    counts: dict[str, NDArray[np.float64]] = {}
    for index in train.tolist():
        picture = pictures[index]
        counts.setdefault(picture.collection, np.full(len(CLASSES), 0.5))[picture.label] += 1  # 0.5: never log 0
    logs = {name: np.log(count / count.sum()) for name, count in counts.items()}
    none = np.zeros(len(CLASSES))  # a collection with no training picture
    return torch.tensor(np.stack([logs.get(picture.collection, none) for picture in pictures]), dtype=torch.float32)


def distance_to_teachers(logits: Tensor, taught: Tensor, distillation: Distillation) -> Tensor:
    """Kullback-Leibler divergence of softened answers, mean over the batch; both [n, classes] without any prior.

    Times the square of the temperature, so that its gradients are of the size of the diagnoses' (Hinton et al.).
    """
    temperature = distillation.temperature
    ours, theirs = (functional.log_softmax(x / temperature, 1) for x in (logits, taught))
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


@torch.inference_mode()
def predict_logits(network: nn.Module, batches: Iterator[Tensor], progress: str | None = None) -> Tensor:
    """Logits float32 [N, classes] of batches float32 [n, 3, H, W] in [0, 255], computed in float32."""
    device = next(network.parameters()).device
    network.eval()
    bar = tqdm(batches, progress, unit=" batches", mininterval=2, disable=progress is None, leave=False)
    return torch.cat([network(batch.to(device)).float().cpu() for batch in bar])


@torch.inference_mode()
def predict_levels(network: EfficientNetLite, batches: Iterator[Tensor]) -> Tensor:
    """What the gate looks at, float32 [N, channels] (`EfficientNetLite.levels`), computed in float32."""
    device = next(network.parameters()).device
    network.eval()
    return torch.cat([network.levels(batch.to(device)).cpu() for batch in batches])


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 on a GPU and on processors that compute in it; emulated it takes many times as long as float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or _processor_has_bfloat16())


@cache
def _processor_has_bfloat16() -> bool:
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _mixed(images: Tensor, targets: Tensor, priors: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup (Zhang et al., arXiv:1710.09412): every picture laid over another of the batch, diagnoses likewise.

    The shares come from torch's own generator, seeded once an epoch, as dropout's choices do.
    """
    if not alpha:
        return images, targets, priors
    share = torch.distributions.Beta(alpha, alpha).sample((len(images),))
    share = torch.maximum(share, 1 - share)  # the picture itself keeps the larger part
    other = torch.randperm(len(images))
    on_images, on_rows = share.to(images.device).view(-1, 1, 1, 1), share.view(-1, 1)
    return (
        torch.lerp(images[other], images, on_images),
        torch.lerp(targets[other], targets, on_rows),
        torch.lerp(priors[other], priors, on_rows),
    )


def _indices(loaded: LoadedPictures, parts: dict[str, str], part: str) -> Tensor:
    return torch.tensor([i for i, picture in enumerate(loaded.pictures) if parts[picture.image_id] == part])


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and the scales of BatchNorm do not."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _epoch_seed(seed: int, epoch: int) -> int:
    return seed * 1_000_003 + epoch * 2
