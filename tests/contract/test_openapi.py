"""The public interface changes only on purpose: a snapshot of the OpenAPI document.

After a wished-for change: `python -m tests.contract.test_openapi > tests/contract/openapi.json`.
"""

import json
from pathlib import Path
from typing import Any

from model_store.store import SHIPPED, ModelStore
from service.app import create_app
from service.registry import Registry
from service.settings import Settings

SNAPSHOT = Path(__file__).with_name("openapi.json")


def document() -> dict[str, Any]:
    return create_app(Settings(), Registry(ModelStore(SHIPPED), "lesion7")).openapi()


def test_the_openapi_document_is_the_agreed_one() -> None:
    """Paths, fields, statuses and descriptions as in the snapshot."""
    assert document() == json.loads(SNAPSHOT.read_text())


def test_every_path_of_the_design_is_there() -> None:
    """The paths that others build against."""
    paths = {"/v1/predictions", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/models/{version}"}
    assert paths <= set(document()["paths"])


if __name__ == "__main__":
    print(json.dumps(document(), indent=1, sort_keys=True))  # noqa: T201
