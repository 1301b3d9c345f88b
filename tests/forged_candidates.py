"""Forged, damaged and dangerous versions, promoted to a running service: none may serve, none may end it.

    python -m tests.forged_candidates --count 1000 --seed 1

The forgeries are those of `tests/model_store/forgeries.py`. Each takes the place of version 1 in the store of a running
service, the alias is moved to it, and the service is told to reload: it must refuse with a reason and go on answering
with version 2. Forgeries of manifests and signatures meet a service that asks for signatures.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from model_store.store import ModelStore
from tests.conftest import encoded, lesion_picture, running_service
from tests.model_store.builders import runnable_fields, runnable_files
from tests.model_store.forgeries import POLICY, Forger, Forgery

TOKEN = "a-token-for-the-forgeries"
_PICTURE = encoded(lesion_picture(200, 150))


@dataclass(frozen=True)
class Trial:
    """One forgery before a running service: the reason of its refusal, or what went wrong."""

    kind: str
    reason: str | None
    fault: str | None


async def trials(count: int, seed: int, folder: Path) -> AsyncIterator[Trial]:
    """Every forgery in turn, before the service that it is meant for."""
    forgeries = list(Forger(seed).forgeries(count))
    for signed in (False, True):
        with _service(folder / f"signed-{signed}", signed=signed) as (client, model):
            before = client.get("/readyz").raise_for_status().json()["model"]
            for forgery in (f for f in forgeries if f.signed == signed):
                yield _trial(forgery, client, model, before)
                await asyncio.sleep(0)


@contextmanager
def _service(folder: Path, *, signed: bool) -> Iterator[tuple[httpx.Client, Path]]:
    """A service with a good version 2 in production, and the folder of the model."""
    store, key = ModelStore(folder / "store"), Ed25519PrivateKey.generate()
    for _ in range(2):
        version = store.publish(runnable_files(), runnable_fields())
    store.promote("lesion7", version.manifest.version)
    store.sign("lesion7", version.manifest.version, key)
    model = store.root / "lesion7"
    options = ["--store", str(store.root), "--admin-token", TOKEN, "--store-poll-seconds", "0"]
    if signed:
        for number, trusted in enumerate([key.public_key(), *POLICY.trusted_keys.values()]):
            pem = trusted.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (folder / f"{number}.pub").write_bytes(pem)
        options += ["--require-signature", "true", "--trusted-keys", str(folder)]
    with running_service(folder / "log", *options) as service:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=service.url, timeout=60, headers=headers) as client:
            yield client, model


def _trial(forgery: Forgery, client: httpx.Client, model: Path, before: dict[str, str]) -> Trial:
    shutil.rmtree(model / "1", ignore_errors=True)
    for name, data in forgery.files.items():
        (model / "1" / name).parent.mkdir(parents=True, exist_ok=True)
        (model / "1" / name).write_bytes(data)
    (model / "aliases.json").write_text(json.dumps({"production": "1"}))
    try:
        reload = client.post("/v1/admin/reload")
        answer = client.post("/v1/predictions", content=_PICTURE)
        refused = {r["version"]: r["reason"] for r in client.get("/v1/models").raise_for_status().json()["refused"]}
    except httpx.HTTPError as error:
        return Trial(forgery.kind, None, f"{forgery.kind}: the service does not answer: {error!r}")
    finally:
        (model / "aliases.json").write_text(json.dumps({"production": "2"}))
    reason = refused.get("1")
    told = (reload.status_code, answer.status_code, answer.json().get("model"))
    right = told == (409, 200, before) and reason is not None and reason != "load_failed"
    return Trial(forgery.kind, reason, None if right else f"{forgery.kind}: {told}, {reason}: {reload.text[:300]}")


async def _counted(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    reasons: Counter[str] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        async for trial in trials(count, seed, Path(folder)):
            reasons[trial.reason or "none"] += 1
            if trial.fault:
                faults.append(trial.fault)
    return reasons, faults


def main() -> int:
    """Print the reasons of the refusals; exit code 1 when one served, or was refused for none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    reasons, faults = asyncio.run(_counted(options.count, options.seed))
    lines = [f"{number:5} {reason}" for reason, number in reasons.most_common()] + faults
    print("\n".join([*lines, f"{options.count - len(faults)} of {options.count} refused; version 2 went on"]))  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
