"""Earlier runs that a run builds on: the one whose weights it starts from, and the teachers whose answers it learns."""

import tomllib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config import Config
from training.errors import ResumeError
from training.network import EfficientNetLite, fold_batch_norms

CHECKPOINT = "checkpoint.pt"
CONFIG_FILE = "config.toml"


def averaged_weights(run: Path, identity: str) -> dict[str, Tensor]:
    """The averaged weights of the run in folder `run`. Raises ResumeError.

    It must have had the data and the split of `identity` (of the run that wants them): pictures that it was trained
    on must not be tested on now.
    """
    file = run / CHECKPOINT
    if not file.exists():
        raise ResumeError(f"the configuration names the run {run.name!r}, but there is no {file}: train that one first")
    state = torch.load(file, map_location="cpu", weights_only=True)
    if state["identity"].split()[1:] != identity.split()[1:]:
        raise ResumeError(f"{file} was trained on other data or another split than this run's")
    prefix = "module."
    return {n.removeprefix(prefix): t for n, t in state["average"].items() if n.startswith(prefix)}


def teacher(run: Path, identity: str, classes: int) -> EfficientNetLite:
    """The finished network of a run, looking at both views of a picture. Raises ResumeError."""
    weights = averaged_weights(run, identity)
    network = EfficientNetLite(_settings(run)["network"]["variant"], classes)
    network.load_state_dict(weights)
    network.mirror = True
    return fold_batch_norms(network)


def starts(folder: Path, config: Config) -> list[Path]:
    """Folders of the runs that the weights of `folder`'s run come from, the latest first."""
    found: list[Path] = []
    name = config.start_from
    while name:
        found.append(folder.parent / name)
        name = _settings(found[-1]).get("start_from")
    return found


def teachers(folder: Path, config: Config) -> list[Path]:
    """Folders of the runs that the run in `folder` learns from."""
    return [folder.parent / name for name in (config.distillation.teachers if config.distillation else ())]


def all_teachers(folder: Path, config: Config) -> list[Path]:
    """Folders of the runs that the run in `folder`, or one that it comes from, learnt from; each once."""
    found = teachers(folder, config)
    for start in starts(folder, config):
        found += [folder.parent / name for name in _settings(start).get("distillation", {}).get("teachers", ())]
    return list(dict.fromkeys(found))


def _settings(run: Path) -> dict[str, Any]:
    """Not validated: an earlier run may have been trained before the configuration had all of today's keys."""
    return tomllib.loads((run / CONFIG_FILE).read_text(encoding="utf-8"))
