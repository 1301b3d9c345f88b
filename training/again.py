"""A published version's network released again: calibrated, quantised, evaluated as today's code does it, not trained.

For when the training was fine and what follows it has changed; nobody needs to have kept the run's folder, as the
weights are in the version's own graph.
"""

import csv
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch

from model_store.store import ModelStore, ModelVersion
from training.config import Config, read_config
from training.data import CLASSES, write_split
from training.earlier import CONFIG_FILE
from training.errors import ExportError, ResumeError
from training.job import read_data
from training.network import EfficientNetLite, fold_batch_norms
from training.provenance import read_record
from training.publish import RECORDS, SPLIT_FILE, START, TEACHERS
from training.release import heading, release
from training.run import Run
from training.train import LOG, EpochLog

_RUN = "this run"  # a name that no earlier one has


def release_again(store: ModelStore, name: str, wanted: str, data: Path, arguments: Sequence[str]) -> ModelVersion:
    """The next version of model `name`, with the network of version or alias `wanted`; no alias is moved.

    Its own record says by which `arguments` and commit it was released; the machine that trained, the training's log,
    start and teachers are those of the old version. Raises ResumeError for other data or another split than the network
    was trained on, TrainingError, StoreError.
    """
    version = store.verify(name, wanted)
    with tempfile.TemporaryDirectory() as folder:
        _restore_records(version, Path(folder))
        config = read_config(Path(folder) / _RUN / CONFIG_FILE)
        heading("Reading the data")
        trained = read_record(Path(folder) / _RUN)
        number = version.manifest.version  # aliases move
        words = [number if word == wanted else word for word in arguments]
        run, _ = read_data(config, data, Path(folder) / _RUN, words)
        _require_same_data(run, version)
        machine = {name: getattr(trained, name) for name in ("processor", "threads", "accelerator")}
        run = replace(run, record=replace(run.record, **machine))
        write_split(run.pictures, run.parts, run.folder / SPLIT_FILE)
        run.record.write(run.folder)
        return release(run, network_of(version, config), _training_log(run.folder), store)


def network_of(version: ModelVersion, config: Config) -> EfficientNetLite:
    """The trained network, its norms folded, from the version's fp32 graph. Raises ExportError."""
    graph = onnx.load_from_string(version.read(version.manifest.variants["fp32"].file)).graph
    stored = {t.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(t))) for t in graph.initializer}
    prefix, temperature = "network.", version.manifest.calibration.temperature
    weights = {name.removeprefix(prefix): t for name, t in stored.items() if name.startswith(prefix)}
    network = fold_batch_norms(EfficientNetLite(config.network.variant, len(CLASSES)))
    try:  # the last layer stands there as a convolution, divided by the temperature
        weights["fc.weight"] = stored["weight"].flatten(1) * temperature
        weights["fc.bias"] = stored["bias"] * temperature
        network.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ExportError(
            f"{version.place}: its graph is no {config.network.variant} that was exported here"
        ) from error
    network.mirror = config.input.mirror
    return network


def _restore_records(version: ModelVersion, folder: Path) -> None:
    """Of the run, of those before it and of its teachers: folders beside each other, as they were made."""
    places = {"": _RUN}  # where in the version -> the run's name
    inside = ""
    while earlier := tomllib.loads(version.read(inside + CONFIG_FILE).decode()).get("start_from"):
        inside += START
        places[inside] = str(earlier)
    parts = [Path(name).parts for name in version.manifest.files if name.startswith(TEACHERS)]
    places |= {f"{TEACHERS}{teacher}/": teacher for _, teacher, _ in parts}
    for inside, run in places.items():
        (folder / run).mkdir(exist_ok=True)
        for record in RECORDS:
            (folder / run / record).write_bytes(version.read(inside + record))


def _require_same_data(run: Run, version: ModelVersion) -> None:
    """What the network was trained on must not be tested on now."""
    then = version.manifest.provenance
    if (run.record.data_digest, run.record.split_digest) != (then.data_digest, then.split_digest):
        raise ResumeError(f"{version.place} was trained on other data or another split than these pictures give")


def _training_log(folder: Path) -> list[EpochLog]:
    with (folder / LOG).open(newline="", encoding="utf-8") as file:
        return [
            EpochLog(int(row.pop("epoch")), int(row.pop("pixels")), **{name: float(x) for name, x in row.items()})
            for row in csv.DictReader(file)
        ]
