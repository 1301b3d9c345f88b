"""A finished run -> one immutable version in the model store."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_store.contract.golden import GoldenVectors, write_golden
from model_store.contract.preprocessing import Preprocessing
from model_store.store import ModelStore, ModelVersion
from training.calibrate import OperatingPoint
from training.config import Config
from training.data import CLASSES
from training.export import INPUT, OUTPUT
from training.provenance import RUN_RECORD, RunRecord
from training.train import LOG

LICENCE = "CC BY-NC 4.0 (weights, from the data); code Apache-2.0"
GRAPH_FILE = "model.onnx"
GOLDEN_FILE = "golden.npz"
CARD_FILE = "MODEL_CARD.md"
EVALUATION_FILE = "evaluation.json"
CONFIG_FILE = "config.toml"
SPLIT_FILE = "split.csv"
_RECORDS = (CONFIG_FILE, LOG, RUN_RECORD)
# Other processors and ONNX Runtime versions add up in another order: differences of some 1e-5 were seen between
# instruction sets; a wrong graph, resize or channel order is off by far more than this.
GOLDEN_TOLERANCE = 1e-3


def publish(
    store: ModelStore,
    config: Config,
    record: RunRecord,
    contract: Preprocessing,
    operating_point: OperatingPoint,
    files: dict[str, bytes],
) -> ModelVersion:
    """Store `files` (see `version_files`) with their manifest as the model's next version. Raises StoreError."""
    fields: dict[str, Any] = {
        "name": config.name,
        "created_at": datetime.now(UTC).replace(microsecond=0),
        "licence": LICENCE,
        "classes": CLASSES,
        "graph": {"file": GRAPH_FILE, "input": INPUT, "probabilities": OUTPUT},
        "preprocessing": contract,
        "calibration": {
            "temperature": operating_point.calibration.temperature,
            "prior_share": operating_point.calibration.prior_share,
            "prior": operating_point.calibration.prior,
        },
        "malignancy": {
            "threshold": operating_point.threshold,
            "target_sensitivity": config.decision.malignant_sensitivity,
        },
        "golden": {"file": GOLDEN_FILE, "tolerance": GOLDEN_TOLERANCE},
        "provenance": {
            "commit": record.commit,
            "config_digest": record.config_digest,
            "data_digest": record.data_digest,
            "split_digest": record.split_digest,
            "seed": record.seed,
            "packages": record.packages,
        },
    }
    return store.publish(files, fields)


def version_files(
    run: Path, start: Path | None, graph: bytes, golden: GoldenVectors, evaluation: dict[str, Any], card: str
) -> dict[str, bytes]:
    """Every file of the version by its name in it; plots, log, split and records come from the run folder.

    `start` is the folder of the run whose weights were trained on: its records are under `start/`.
    """
    files = {
        GRAPH_FILE: graph,
        GOLDEN_FILE: write_golden(golden),
        CARD_FILE: card.encode(),
        EVALUATION_FILE: (json.dumps(evaluation, indent=1, allow_nan=False) + "\n").encode(),
        f"{SPLIT_FILE}.gz": gzip.compress((run / SPLIT_FILE).read_bytes(), mtime=0),  # 40,000 ids are over a megabyte
    }
    files |= {name: (run / name).read_bytes() for name in _RECORDS}
    files |= {f"start/{name}": (start / name).read_bytes() for name in _RECORDS if start}
    files |= {f"plots/{plot.name}": plot.read_bytes() for plot in sorted((run / "plots").glob("*.png"))}
    return files
