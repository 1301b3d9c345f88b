"""The training job: from folders of pictures to a published version, step by step."""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from model_store.store import ModelStore, ModelVersion
from training import evaluate as evaluation
from training.calibrate import MALIGNANT, OperatingPoint, calibrate, natural_log_prior
from training.card import model_card
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
from training.errors import ConfigError, ResumeError
from training.export import OnnxClassifier, export_onnx, golden_vectors, require_parity
from training.generate import write_collection
from training.network import EfficientNetLite
from training.plots import draw_plots
from training.provenance import RunRecord, command_line, read_record, record_run
from training.publish import CONFIG_FILE, SPLIT_FILE, publish, version_files
from training.render import Renderer, contract_of
from training.train import CHECKPOINT, EpochLog, Trainer, predict_logits

GENERATED = "generated"


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    config_file: Path
    data: Path | None
    store: Path
    run: Path
    resume: bool
    promote: tuple[str, ...]
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What all steps after reading the data look at."""

    config: Config
    folder: Path
    pictures: tuple[Picture, ...]
    parts: dict[str, str]
    record: RunRecord

    def part(self, part: str, collection: str | None = None) -> tuple[Picture, ...]:
        """Pictures of a part, of one collection or of all."""
        ours = (picture for picture in self.pictures if self.parts[picture.image_id] == part)
        return tuple(picture for picture in ours if collection in (None, picture.collection))

    @property
    def natural_validation(self) -> tuple[Picture, ...]:
        """Validation pictures with the natural class mix: everything is chosen on these."""
        return self.part("validation", self.config.data.natural_mix)

    @property
    def renderer(self) -> Renderer:
        """Pictures through the contract that will be published."""
        return Renderer(self.config, contract_of(self.config.input))


def train_and_publish(order: Order) -> ModelVersion:
    """Every step from the configuration to the published version. Raises TrainingError and StoreError."""
    config = read_config(order.config_file)
    _require_new_or_resumed(order)
    _heading("Reading the data")
    run, loaded = _read_data(config, order)
    _heading(f"Training {config.network.variant}: {config.train.epochs} epochs, {len(run.part('train'))} pictures")
    network, log = _train(run, loaded, order.config_file)
    del loaded  # a gigabyte and more; what follows reads the files afresh
    _heading("Calibrating on validation")
    chosen = _calibrate(run, network)
    _heading("Exporting to ONNX")
    graph = export_onnx(network, chosen.calibration, config.input.pixels)
    _heading("Evaluating on test")
    found, predictions = _evaluate(run, network, graph, chosen)
    _draw(run, predictions, chosen, log)
    _heading("Publishing")
    version = _publish(run, order, graph, chosen, found)
    for alias in order.promote:
        ModelStore(order.store).promote(config.name, version.manifest.version, alias)
    return version


def _require_new_or_resumed(order: Order) -> None:
    """Never overwrite a run by accident: hours may stand in its checkpoint."""
    if (order.run / CHECKPOINT).exists() and not order.resume:
        raise ResumeError(f"{order.run} holds a checkpoint: add --resume to continue it, or choose another --run")
    try:
        order.run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create the run folder {order.run}: {error.strerror}") from error


def _read_data(config: Config, order: Order) -> tuple[Run, LoadedPictures]:
    """Read or draw the pictures, split them, and digest what they are."""
    root = order.data
    if config.data.generated:
        root = order.run / GENERATED
        if root.exists():
            shutil.rmtree(root)  # of an earlier start; drawn anew, the same for the same configuration
        write_collection(config.data.generated, config.seed, root)
    if root is None:
        raise ConfigError("--data is needed: the folder that holds the collections named in the configuration")
    pictures = read_collections(config.data, root)
    parts = split_by_lesion(pictures, config.data, config.seed)
    _require_every_part(config, pictures, parts)
    loaded = load_pictures(pictures, config.data)
    record = record_run(config, loaded, parts, command_line(order.arguments))
    counts = Counter(parts.values())
    tqdm.write(f"{len(pictures)} pictures: " + ", ".join(f"{counts[part]} {part}" for part in PARTS))
    return Run(config, order.run, pictures, parts, record), loaded


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


def _calibrate(run: Run, network: EfficientNetLite) -> OperatingPoint:
    pictures = run.natural_validation
    batches = run.renderer.batches(pictures, "validation")
    logits = predict_logits(network, map(_as_floats, batches)).numpy()
    prior = natural_log_prior(run.pictures, run.parts, run.config.data.natural_mix)
    chosen = calibrate(logits, np.array([p.label for p in pictures], np.int64), prior, run.config.decision)
    tqdm.write(
        f"temperature {chosen.calibration.temperature:.3f}, prior share {chosen.calibration.prior_share:.2f}, "
        f"malignancy threshold {chosen.threshold:.3f}"
    )
    return chosen


def _evaluate(
    run: Run, network: EfficientNetLite, graph: bytes, chosen: OperatingPoint
) -> tuple[dict[str, Any], evaluation.Predictions]:
    """The evaluation file's content, and the graph's predictions on the test part. Raises ExportError."""
    test, classifier = run.part("test"), OnnxClassifier(graph)
    images = np.concatenate(list(run.renderer.batches(test, "test")))
    predictions = evaluation.Predictions(test, evaluation.classify(classifier, _split(images)))
    logits = predict_logits(network, map(_as_floats, _split(images))).numpy()
    reference = evaluation.Predictions(test, chosen.calibration.probabilities(logits))
    difference = require_parity(predictions.probabilities, reference.probabilities)
    figures = evaluation.evaluate(predictions, run.config, chosen.threshold)
    found = {
        "model": run.config.name,
        "provenance": {
            "config_digest": run.record.config_digest,
            "data_digest": run.record.data_digest,
            "split_digest": run.record.split_digest,
            "seed": run.record.seed,
        },
        "calibration": chosen.as_json(),
        "test": figures,
        "parity": {
            "pictures": len(test),
            "largest_probability_difference": difference,
            "figures": evaluation.compare_with_network(predictions, reference, run.config, chosen.threshold),
        },
        "shapes": evaluation.measure_shapes(classifier, run.natural_validation, run.config),
    }
    headline = figures["collections"][run.config.data.natural_mix]
    tqdm.write(", ".join(f"{name.replace('_', ' ')} {_short(headline[name])}" for name in evaluation.HEADLINE))
    return found, predictions


def _draw(run: Run, predictions: evaluation.Predictions, chosen: OperatingPoint, log: Sequence[EpochLog]) -> None:
    name = run.config.data.natural_mix
    draw_plots(predictions.of(lambda picture: picture.collection == name), chosen.threshold, log, run.folder, name)


def _publish(run: Run, order: Order, graph: bytes, chosen: OperatingPoint, found: dict[str, Any]) -> ModelVersion:
    contract = contract_of(run.config.input)
    golden = golden_vectors(graph, contract)
    start = run.folder.parent / run.config.start_from if run.config.start_from else None
    start_record = read_record(start) if start else None
    card = model_card(run.config, run.record, start_record, found, run.pictures, run.parts)
    files = version_files(run.folder, start, graph, golden, found, card)
    return publish(ModelStore(order.store), run.config, run.record, contract, chosen, files)


def _as_floats(images: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, H, W, 3] -> float32 [n, 3, H, W], what the network takes."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def _split(images: NDArray[np.uint8], size: int = 32) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _short(figure: dict[str, float | None]) -> str:
    value = figure["value"]
    return "none" if value is None else f"{value:.3f}"


def _heading(text: str) -> None:
    tqdm.write(f"\n== {text}")
