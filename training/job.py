"""The training job: from folders of pictures to a published version, step by step."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from model_store.store import ModelStore, ModelVersion
from training.calibrate import MALIGNANT
from training.config import Config, read_config
from training.data import (
    PARTS,
    LoadedPictures,
    Picture,
    load_pictures,
    read_collections,
    split_by_lesion,
    write_split,
)
from training.earlier import CHECKPOINT, CONFIG_FILE
from training.errors import ConfigError, ResumeError
from training.generate import write_collection
from training.network import EfficientNetLite
from training.provenance import command_line, record_run
from training.publish import SPLIT_FILE
from training.release import heading, release
from training.run import Run
from training.train import EpochLog, Trainer

GENERATED = "generated"


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    config_file: Path
    data: Path | None
    store: Path | str
    run: Path
    resume: bool
    train_only: bool
    promote: tuple[str, ...]
    arguments: tuple[str, ...]


def train_and_publish(order: Order) -> ModelVersion | None:
    """Every step from the configuration to the published version; none for an order that only trains.

    Raises TrainingError and StoreError.
    """
    config = read_config(order.config_file)
    _require_new_or_resumed(order)
    heading("Reading the data")
    run, loaded = read_data(config, order.data, order.run, order.arguments)
    heading(f"Training {config.network.variant}: {config.train.epochs} epochs, {len(run.part('train'))} pictures")
    network, log = _train(run, loaded, order.config_file)
    if order.train_only:
        return None
    del loaded  # a gigabyte and more; what follows reads the files afresh
    store = ModelStore(order.store)
    version = release(run, network, log, store)
    for alias in order.promote:
        store.promote(config.name, version.manifest.version, alias)
    return version


def _require_new_or_resumed(order: Order) -> None:
    """Never overwrite a run by accident: hours may stand in its checkpoint."""
    if (order.run / CHECKPOINT).exists() and not order.resume:
        raise ResumeError(f"{order.run} holds a checkpoint: add --resume to continue it, or choose another --run")
    try:
        order.run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create the run folder {order.run}: {error.strerror}") from error


def read_data(config: Config, root: Path | None, folder: Path, arguments: Sequence[str]) -> tuple[Run, LoadedPictures]:
    """Read or draw the pictures, split them, and digest what they are."""
    if config.data.generated:
        root = folder / GENERATED
        if root.exists():
            shutil.rmtree(root)  # of an earlier start; drawn anew, the same for the same configuration
        write_collection(config.data.generated, config.seed, root)
    if root is None:
        raise ConfigError("--data is needed: the folder that holds the collections named in the configuration")
    pictures = read_collections(config.data, root)
    parts = split_by_lesion(pictures, config.data, config.seed)
    _require_every_part(config, pictures, parts)
    loaded = load_pictures(pictures, config.data)
    record = record_run(config, loaded, parts, command_line(arguments))
    counts = Counter(parts.values())
    tqdm.write(f"{len(pictures)} pictures: " + ", ".join(f"{counts[part]} {part}" for part in PARTS))
    return Run(config, folder, pictures, parts, record, root), loaded


def _require_every_part(config: Config, pictures: Sequence[Picture], parts: dict[str, str]) -> None:
    """Without malignant and benign pictures of the natural mix, no threshold can be chosen and none judged."""
    natural = [picture for picture in pictures if picture.collection == config.data.natural_mix]
    for part in PARTS:
        kinds = {bool(MALIGNANT[picture.label]) for picture in natural if parts[picture.image_id] == part}
        if len(kinds) < 2:
            raise ConfigError(
                f"the {part} part of {config.data.natural_mix} needs malignant and benign pictures: at least three "
                "lesions of a malignant and of a benign class"
            )


def _train(run: Run, loaded: LoadedPictures, config_file: Path) -> tuple[EfficientNetLite, list[EpochLog]]:
    """Start, or continue from the checkpoint, and train the epochs that are left; the averaged network on the CPU.

    Split, configuration and record are written once it is clear that the folder's checkpoint belongs to them.
    """
    trainer = Trainer(run.config, loaded, run.parts, run.record.identity, run.folder)
    done = trainer.resume()
    write_split(run.pictures, run.parts, run.folder / SPLIT_FILE)
    (run.folder / CONFIG_FILE).write_bytes(config_file.read_bytes())
    run.record.write(run.folder)
    if done:
        tqdm.write(f"continuing after epoch {done} of {run.config.train.epochs}")
    trainer.fit()
    network = trainer.averaged_network.cpu()
    network.mirror = run.config.input.mirror
    return network, trainer.log
