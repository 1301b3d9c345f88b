"""The gate before production: a version's figures against the limits of `gate.toml`, one readable line each."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model_store.contract.manifest import first_fault
from model_store.errors import GateRefusedError, NotInStoreError
from model_store.store import ModelVersion

SHIPPED_GATE = Path(__file__).with_name("gate.toml")
EVALUATION = "evaluation.json"
_NATURAL_MIX = "{natural_mix}"
_DIGITS = 4


class GateLine(BaseModel):
    """One limit; what the fields mean stands at the top of `gate.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    report: Literal["evaluation", "shadow"]
    figure: str
    minimum: float | None = None
    maximum: float | None = None
    may_lose: float | None = Field(default=None, ge=0)
    enough: dict[str, int] = {}
    optional: bool = False
    why: str

    @model_validator(mode="after")
    def _one_limit(self) -> "GateLine":
        if (self.minimum is None) == (self.maximum is None):
            raise ValueError(f"line {self.name!r} needs a minimum or a maximum")
        return self


class Gate(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    applies_to: tuple[str, ...]
    signature: Literal["where keys are given", "required"]
    lines: tuple[GateLine, ...] = Field(alias="line")


@dataclass(frozen=True)
class Judgement:
    """What the gate says of one line: passed, failed, or None where it could not be judged and need not be."""

    name: str
    passed: bool | None
    found: str
    wanted: str
    why: str


def read_gate(file: Path = SHIPPED_GATE) -> Gate:
    """Raises GateRefusedError: without a gate nothing passes it."""
    try:
        return Gate.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise GateRefusedError(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        raise GateRefusedError(f"{file}: {first_fault(error)}") from error
    except ValueError as error:
        raise GateRefusedError(f"{file}: not TOML: {error}") from error


def judge(
    gate: Gate, version: ModelVersion, production: ModelVersion | None, shadow: Mapping[str, Any] | None
) -> list[Judgement]:
    """Every line of the file on a version; `production` is what serves now. Raises DamagedVersionError."""
    evaluation = read_evaluation(version)
    before = read_evaluation(production) if production and _same_test_pictures(version, production) else None
    reports: dict[str, Mapping[str, Any] | None] = {"evaluation": evaluation, "shadow": shadow}
    return [_judge(line, reports[line.report], before if line.report == "evaluation" else None) for line in gate.lines]


def read_evaluation(version: ModelVersion) -> dict[str, Any] | None:
    """The version's evaluation; None where it has none or none that can be read."""
    try:
        found = json.loads(version.read(EVALUATION))
    except (NotInStoreError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _same_test_pictures(version: ModelVersion, production: ModelVersion) -> bool:
    ours, theirs = version.manifest.provenance, production.manifest.provenance
    return (ours.split_digest, ours.data_digest) == (theirs.split_digest, theirs.data_digest)


def _judge(line: GateLine, report: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> Judgement:
    limit, wanted = _limit(line, before)
    worst = _worst(line, report)
    if worst is None:
        told = "no report given" if report is None else "not in the report"
        return Judgement(line.name, None if line.optional else False, told, wanted, line.why)
    value, where = worst
    passed = value >= limit if line.minimum is not None else value <= limit
    return Judgement(line.name, passed, f"{value:.{_DIGITS}f}{f' ({where})' if where else ''}", wanted, line.why)


def _limit(line: GateLine, before: Mapping[str, Any] | None) -> tuple[float, str]:
    """The stricter of the line's own limit and what production allows to lose."""
    sign = ">=" if line.minimum is not None else "<="
    own = line.minimum if line.minimum is not None else line.maximum
    assert own is not None
    now = _worst(line, before) if line.may_lose is not None else None
    if now is None or line.may_lose is None:
        return own, f"{sign} {own:g}"
    if line.minimum is not None:
        allowed = now[0] - line.may_lose
        stricter = allowed > own
    else:
        allowed = now[0] + line.may_lose
        stricter = allowed < own
    if not stricter:
        return own, f"{sign} {own:g}"
    return allowed, f"{sign} {allowed:.{_DIGITS}f} (production {now[0]:.{_DIGITS}f}, may lose {line.may_lose:g})"


def _worst(line: GateLine, report: Mapping[str, Any] | None) -> tuple[float, str] | None:
    """The worst figure and which of several it is; None where there is none."""
    if report is None:
        return None
    path = line.figure
    if _NATURAL_MIX in path:
        test = report.get("test")
        path = path.replace(_NATURAL_MIX, str(test.get("natural_mix")) if isinstance(test, dict) else "")
    found = sorted(_figures(report, path.split("."), line.enough, ""))
    if not found:
        return None
    return found[0] if line.minimum is not None else found[-1]


def _figures(node: object, path: list[str], enough: Mapping[str, int], which: str) -> Iterator[tuple[float, str]]:
    """Every number that the path leads to, with the names that its stars stood for."""
    if not path:
        if isinstance(node, int | float) and not isinstance(node, bool) and node == node:
            yield float(node), which
        return
    if not isinstance(node, dict):
        return
    key, rest = path[0], path[1:]
    if key != "*":
        yield from _figures(node.get(key), rest, enough, which)
        return
    for name, inner in node.items():
        if isinstance(inner, dict) and all(_count(inner, what) >= least for what, least in enough.items()):
            yield from _figures(inner, rest, {}, name)


def _count(node: Mapping[str, Any], what: str) -> int:
    found = node.get(what)
    return found if isinstance(found, int) else 0
