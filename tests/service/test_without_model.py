"""Without a verified model there is no answer, and the service says so."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from model_store.store import SHIPPED, ModelStore
from service.app import create_app
from service.registry import Registry
from service.settings import read_settings
from tests.conftest import encoded, lesion_picture


@pytest.fixture
def client() -> Iterator[TestClient]:
    app = create_app(read_settings([], {}), Registry(ModelStore(SHIPPED), "lesion7"))
    with TestClient(app) as started:
        yield started


def test_no_model_means_503_never_a_default_diagnosis(client: TestClient) -> None:
    """A picture gets model_not_ready with Retry-After."""
    response = client.post("/v1/predictions", content=encoded(lesion_picture()))
    assert (response.status_code, response.json()["code"]) == (503, "model_not_ready")
    assert int(response.headers["retry-after"]) >= 1


def test_live_but_not_ready(client: TestClient) -> None:
    """/healthz is ok, /readyz is 503."""
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").json() == {"status": "not_ready"}
