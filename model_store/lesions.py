"""The lesion classes: code, name, plain description, malignant or not, terminology codes (from `lesions.json`)."""

import json
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict


class TerminologyCode(BaseModel):
    """A code of a hospital terminology and how sure the project is of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: Literal["SNOMED CT", "ICD-10-CM"]
    code: str
    display: str
    certainty: Literal["high", "medium-high", "medium"]


class Lesion(BaseModel):
    """One class of HAM10000."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    name: str
    malignant: bool
    description: str
    terminology: tuple[TerminologyCode, ...]


@cache
def lesions() -> dict[str, Lesion]:
    """All known classes by code, in the order of their codes."""
    text = resources.files("model_store").joinpath("lesions.json").read_text(encoding="utf-8")
    return {entry["code"]: Lesion.model_validate(entry) for entry in json.loads(text)["lesions"]}
