"""Without a verified model there is no answer, and the service says so."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from model_store.store import ModelStore
from service.app import create_app
from service.registry import Registry
from service.settings import read_settings
from tests.conftest import encoded, lesion_picture


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(read_settings([], {}), Registry(ModelStore(tmp_path), "lesion7"))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as connected:
            yield connected


async def test_no_model_means_503_never_a_default_diagnosis(client: httpx.AsyncClient) -> None:
    """A picture gets model_not_ready with Retry-After."""
    response = await client.post("/v1/predictions", content=encoded(lesion_picture()))
    assert (response.status_code, response.json()["code"]) == (503, "model_not_ready")
    assert int(response.headers["retry-after"]) >= 1


async def test_live_but_not_ready(client: httpx.AsyncClient) -> None:
    """/healthz is ok, /readyz is 503."""
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).json()["status"] == "not_ready"
