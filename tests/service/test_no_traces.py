"""Nothing about a request leaves by OpenTelemetry, whatever another package sets up in the process."""

from pathlib import Path

import httpx
import pytest
from opentelemetry import trace

from model_store.store import ModelStore
from service.app import create_app
from service.registry import Registry
from service.settings import read_settings


class Provider(trace.TracerProvider):
    """Stands where an exporter's would; remembers who asked it for a tracer."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get_tracer(self, name: str, *others: object, **more: object) -> trace.Tracer:  # type: ignore[override]
        self.asked.append(name)
        return trace.NoOpTracer()


async def test_requests_are_not_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that is there is not even asked for a tracer: FastAPI's spans carry paths and queries."""
    provider = Provider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    app = create_app(read_settings([], {}), Registry(ModelStore(tmp_path), "lesion7"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        assert (await client.get("/healthz?patient=Zebulon")).status_code == 200
    assert provider.asked == []
