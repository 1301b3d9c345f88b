"""A finished run -> one immutable version in the model store."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_store.contract.golden import GoldenVectors, write_golden
from model_store.contract.manifest import Calibration, Certainty, InDistribution, Malignancy, Variant, VariantName
from model_store.contract.preprocessing import Preprocessing
from model_store.contract.quality import QualityLimits
from model_store.store import ModelStore, ModelVersion
from training.config import Config
from training.data import CLASSES
from training.earlier import CONFIG_FILE
from training.export import INPUT, OUTPUTS
from training.provenance import RUN_RECORD, RunRecord
from training.train import LOG

LICENCE = "CC BY-NC 4.0 (weights, from the data); code Apache-2.0"
GRAPH_FILES: dict[VariantName, str] = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
GOLDEN_FILE = "golden.npz"
CARD_FILE = "MODEL_CARD.md"
EVALUATION_FILE = "evaluation.json"
REFERENCE_FILE = "reference.json"
SPLIT_FILE = "split.csv"
START, TEACHERS = "start/", "teachers/"  # where in a version the records of earlier runs are
RECORDS = (CONFIG_FILE, LOG, RUN_RECORD)
# Other processors and ONNX Runtime versions add up in another order: differences of some 1e-5 were seen between
# instruction sets; a wrong graph, resize or channel order is off by far more than this. In int8 a sum that is rounded
# the other way moves an activation by a whole step.
GOLDEN_TOLERANCES: dict[VariantName, float] = {"fp32": 1e-3, "int8": 0.03}


@dataclass(frozen=True)
class Chosen:
    """The manifest's parts that were chosen on validation."""

    calibration: Calibration
    malignancy: Malignancy
    certainty: Certainty
    in_distribution: InDistribution
    quality: QualityLimits


def publish(
    store: ModelStore,
    config: Config,
    record: RunRecord,
    contract: Preprocessing,
    chosen: Chosen,
    variants: Mapping[VariantName, Variant],
    files: Mapping[str, bytes],
) -> ModelVersion:
    """Store `files` (see `version_files`) with their manifest as the model's next version. Raises StoreError."""
    fields: dict[str, Any] = {
        "name": config.name,
        "created_at": datetime.now(UTC).replace(microsecond=0),
        "licence": LICENCE,
        "classes": CLASSES,
        "graph": {"input": INPUT, **{output: output for output in OUTPUTS}},
        "variants": variants,
        "preprocessing": contract,
        "calibration": chosen.calibration,
        "malignancy": chosen.malignancy,
        "certainty": chosen.certainty,
        "in_distribution": chosen.in_distribution,
        "quality": chosen.quality,
        "reference": {"file": REFERENCE_FILE},
        "golden": {"file": GOLDEN_FILE, "tolerance": {variant: GOLDEN_TOLERANCES[variant] for variant in variants}},
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
    run: Path,
    starts: Sequence[Path],
    teachers: Sequence[Path],
    graphs: Mapping[VariantName, bytes],
    golden: GoldenVectors,
    reference: dict[str, Any],
    evaluation: dict[str, Any],
    card: str,
) -> dict[str, bytes]:
    """Every file of the version by its name in it; plots, log, split and records come from the run folder.

    `starts` are the folders of the runs whose weights were trained on, the latest first: the records of the first are
    under `start/`, those of the one before under `start/start/`, and so on.
    """
    files = {GRAPH_FILES[variant]: graph for variant, graph in graphs.items()}
    files |= {
        GOLDEN_FILE: write_golden(golden),
        CARD_FILE: card.encode(),
        EVALUATION_FILE: _json(evaluation),
        REFERENCE_FILE: _json(reference),
        f"{SPLIT_FILE}.gz": gzip.compress((run / SPLIT_FILE).read_bytes(), mtime=0),  # 40,000 ids are over a megabyte
    }
    files |= {name: (run / name).read_bytes() for name in RECORDS}
    for depth, start in enumerate(starts, start=1):
        files |= {START * depth + name: (start / name).read_bytes() for name in RECORDS}
    for teacher in teachers:
        files |= {f"{TEACHERS}{teacher.name}/{name}": (teacher / name).read_bytes() for name in RECORDS}
    files |= {f"plots/{plot.name}": plot.read_bytes() for plot in sorted((run / "plots").glob("*.png"))}
    return files


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
