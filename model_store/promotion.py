"""Promoting through the gate: what is looked at before an alias moves, and what is recorded when it is overruled."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from model_store.contract.manifest import VariantName
from model_store.errors import (
    DamagedVersionError,
    GateRefusedError,
    ReplayError,
    UnsafeGraphError,
    UntrustedVersionError,
)
from model_store.gate import Gate, Judgement, judge
from model_store.graph_check import check_graphs
from model_store.replay import golden_difference
from model_store.signatures import TrustPolicy
from model_store.store import PRODUCTION, ModelStore, ModelVersion

_SERVICE_TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Evidence:
    """What besides the store a version is judged by: trusted keys, and the report of a shadow run, if there are."""

    policy: TrustPolicy
    shadow: Mapping[str, Any] | None = None


def judged(store: ModelStore, name: str, version: str, alias: str, gate: Gate, evidence: Evidence) -> list[Judgement]:
    """Every line: signed, safe graph, golden answers, then the file's. Raises DamagedVersionError, NotInStoreError."""
    opened = store.verify(name, version)  # what is not whole is never promoted, forced or not
    safe = _graph(opened)
    lines = [_signature(store, opened, gate, evidence.policy), safe]
    if safe.passed:
        lines += [_golden(opened, variant) for variant in opened.manifest.variants]
    if alias not in gate.applies_to:
        return lines
    aliases = store.aliases(name)
    production = store.open(name, PRODUCTION) if PRODUCTION in aliases else None
    return lines + judge(gate, opened, production, _shadow_of(opened, production, evidence.shadow))


def refused(lines: Sequence[Judgement]) -> list[str]:
    """Names of the lines that failed."""
    return [line.name for line in lines if line.passed is False]


def read_shadow_report(place: str) -> dict[str, Any]:
    """What `GET /v1/shadow` answers: asked of a service by its URL, or read from a file. Raises GateRefusedError."""
    try:
        if place.startswith(("http://", "https://")):
            with urlopen(f"{place.rstrip('/')}/v1/shadow", timeout=_SERVICE_TIMEOUT_SECONDS) as answer:  # noqa: S310 - http alone
                found = json.loads(answer.read())
        else:
            found = json.loads(Path(place).read_bytes())
        if all(isinstance(found[side]["digest"], str) for side in ("serving", "candidate")):
            return dict(found)
    except OSError as error:  # URLError derives from it
        raise GateRefusedError(f"{place}: {error.strerror or getattr(error, 'reason', error)}") from error
    except (ValueError, TypeError, KeyError):
        pass
    raise GateRefusedError(f"{place}: not the report of a shadow run")


def _shadow_of(
    version: ModelVersion, production: ModelVersion | None, shadow: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The report, if it is of this version beside the one that serves now."""
    if shadow is None:
        return None
    if shadow["candidate"]["digest"] != version.digest:
        raise GateRefusedError(f"the shadow report is of another version: {shadow['candidate']['digest'][:80]}")
    if production and shadow["serving"]["digest"] != production.digest:
        raise GateRefusedError(f"the shadow ran beside another version: {shadow['serving']['digest'][:80]}")
    return shadow


def _signature(store: ModelStore, version: ModelVersion, gate: Gate, policy: TrustPolicy) -> Judgement:
    wanted, why = "by a trusted key", "somebody answers for this version"
    number = version.manifest.version
    if not policy.trusted_keys:
        signers = store.signers(version.manifest.name, number)
        told = f"{len(signers)} signatures, not checked: no keys given" if signers else "not signed"
        return Judgement("signature", False if gate.signature == "required" else None, told, wanted, why)
    try:
        store.verify(version.manifest.name, number, TrustPolicy(True, policy.trusted_keys))
    except UntrustedVersionError as error:
        return Judgement("signature", False, str(error), wanted, why)
    return Judgement("signature", True, "by a trusted key", wanted, why)


def _graph(version: ModelVersion) -> Judgement:
    wanted, why = "standard operators, all in the file, as the manifest says", "what is not known is not run"
    try:
        check_graphs(version)
    except UnsafeGraphError as error:
        return Judgement("safe graph", False, str(error), wanted, why)
    return Judgement("safe graph", True, "checked", wanted, why)


def _golden(version: ModelVersion, variant: VariantName) -> Judgement:
    """int8 may round otherwise on this machine than where it serves: told, not refused."""
    tolerance = version.manifest.golden.tolerance[variant]
    wanted, why = f"<= {tolerance:g}", "the same pictures give the same answers everywhere, and none is NaN"
    try:
        off = golden_difference(version, variant)
    except (DamagedVersionError, ReplayError) as error:
        return Judgement(f"golden answers, {variant}", False, str(error), wanted, why)
    passed = True if off <= tolerance else None if variant == "int8" and math.isfinite(off) else False
    return Judgement(f"golden answers, {variant}", passed, f"{off:.2g}", wanted, why)
