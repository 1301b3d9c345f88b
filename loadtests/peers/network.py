"""The network that every server of the comparison answers with, read from its version's files as plain JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]  # the checkout: rivals and dermserve are started from here
MODELS = ROOT / "model_store" / "models"
NAME, ALIAS = "lesion7", "production"
RESIZES = ("squash", "center_crop")  # that the rivals know


@dataclass(frozen=True, slots=True)
class Network:
    """One version: takes uint8 [N, height, width, 3] RGB, gives float32 [N, classes]."""

    version: str
    classes: tuple[str, ...]
    input: str  # name of the graph's input
    output: str  # name of the graph's output with the probabilities
    height: int  # pixels
    width: int  # pixels
    resize: str  # one of RESIZES
    reduced_decode_factor: int  # a JPEG is decoded at the smallest scale that keeps this many times the input's side
    files: dict[str, Path]  # graph by variant: fp32, int8


def read_network(models: Path = MODELS) -> Network:
    """The version that production points to; raises OSError, KeyError or ValueError for files that do not say it."""
    table: dict[str, Any] = json.loads((models / NAME / "aliases.json").read_text(encoding="utf-8"))
    version: str = table.get("aliases", table)[ALIAS]  # an older table holds the aliases alone
    folder = models / NAME / version
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    preprocessing = manifest["preprocessing"]
    if preprocessing["resize"] not in RESIZES:
        raise ValueError(f"the rivals know {RESIZES}, version {version} resizes by {preprocessing['resize']}")
    return Network(
        version=version,
        classes=tuple(manifest["classes"]),
        input=manifest["graph"]["input"],
        output=manifest["graph"]["probabilities"],
        height=preprocessing["height"],
        width=preprocessing["width"],
        resize=preprocessing["resize"],
        reduced_decode_factor=preprocessing["reduced_decode_factor"],
        files={variant: folder / entry["file"] for variant, entry in manifest["variants"].items()},
    )
