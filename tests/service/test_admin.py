"""POST /v1/admin/reload: for who has the token, and answered when the swap is done."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from model_store.store import ModelStore
from service.app import create_app
from service.choice import Wishes
from service.registry import Registry
from service.settings import InvalidSettingsError, Settings, read_settings
from tests.conftest import encoded, lesion_picture
from tests.service.stand_ins import graph, publish

URL = "/v1/admin/reload"
TOKEN = "a-token-for-these-tests"
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return publish(tmp_path / "store", {"fp32": graph()})


@asynccontextmanager
async def connected(store: ModelStore, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    registry = Registry(store, "lesion7", Wishes(workers=1, max_batch_size=1))
    registry.load("production")
    app = create_app(settings, registry)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


@pytest.fixture
async def client(store: ModelStore) -> AsyncIterator[httpx.AsyncClient]:
    async with connected(store, Settings(admin_token=TOKEN, store_poll_seconds=0)) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer another-token-of-somebody"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer "},
        {"Authorization": b"Bearer \xff"},
    ],
)
async def test_without_the_token_nothing_happens(
    client: httpx.AsyncClient, store: ModelStore, headers: dict[str, str]
) -> None:
    """401, and the alias that moved is not followed."""
    publish(store.root, {"fp32": graph(gain=0.5)})
    refused = await client.post(URL, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in refused.text
    assert (await client.get("/readyz")).json()["model"]["version"] == "1"


async def test_without_a_token_set_the_route_is_off(store: ModelStore) -> None:
    """404 that says so, whatever is sent."""
    async with connected(store, Settings(store_poll_seconds=0)) as client:
        for headers in ({}, RIGHT, {"Authorization": "Bearer "}):
            refused = await client.post(URL, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
            assert "DERMSERVE_ADMIN_TOKEN is not set" in refused.json()["detail"]


async def test_a_reload_answers_when_the_swap_is_done(client: httpx.AsyncClient, store: ModelStore) -> None:
    """The next answer is the new version's, and the old version's after a rollback."""
    publish(store.root, {"fp32": graph(gain=0.5)})
    picture = encoded(lesion_picture(200, 150))
    for version in ("2", "1"):
        report = (await client.post(URL, headers=RIGHT)).raise_for_status().json()
        assert report["serving"]["version"] == version
        answer = (await client.post("/v1/predictions", content=picture)).raise_for_status().json()
        assert answer["model"] == report["serving"]
        store.rollback("lesion7")


async def test_a_reload_tells_why_a_version_is_refused(client: httpx.AsyncClient, store: ModelStore) -> None:
    """409 with the reason; the old one goes on; asked again it is tried again."""
    publish(store.root, {"fp32": graph(gain=2.0)}, {"fp32": graph()})
    for _ in range(2):
        refused = await client.post(URL, headers=RIGHT)
        assert (refused.status_code, refused.json()["code"]) == (409, "version_refused")
        assert "version 2: self_test" in refused.json()["detail"]
        assert "version 1 goes on serving" in refused.json()["detail"]
    assert 'dermserve_model_refusals_total{reason="self_test"} 2.0' in (await client.get("/metrics")).text


async def test_a_reload_tells_that_the_store_is_away(client: httpx.AsyncClient, store: ModelStore) -> None:
    """503 with Retry-After."""
    (store.root / "lesion7").rename(store.root / "away")
    refused = await client.post(URL, headers=RIGHT)
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_refused_candidate_is_in_the_report(client: httpx.AsyncClient, store: ModelStore) -> None:
    """It is no failure of the reload: the version that is to serve serves."""
    publish(store.root, {"fp32": graph(gain=2.0)}, {"fp32": graph()}, alias="candidate")
    report = (await client.post(URL, headers=RIGHT)).raise_for_status().json()
    assert (report["serving"]["version"], report["shadow"]) == ("1", None)
    assert [(r["version"], r["reason"]) for r in report["refused"]] == [("2", "self_test")]


def test_the_token_may_stand_in_a_file(tmp_path: Path) -> None:
    """As orchestrators hand out secrets; it is shown nowhere, and a file that cannot be read ends the start."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    settings = read_settings(["--admin-token-file", str(file)], {})
    assert settings.admin_token is not None
    assert settings.admin_token.get_secret_value() == TOKEN
    assert TOKEN not in repr(settings)
    with pytest.raises(InvalidSettingsError, match="admin_token_file cannot be read"):
        read_settings(["--admin-token-file", str(tmp_path / "absent")], {})
    with pytest.raises(InvalidSettingsError, match="both given"):
        read_settings(["--admin-token-file", str(file), "--admin-token", TOKEN], {})
    with pytest.raises(InvalidSettingsError, match="admin_token"):
        read_settings(["--admin-token", "short"], {})
