"""`explain` and `prevalence` over HTTP, in the query and in the form, with a network that fits on a screen."""

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service.app import create_app
from service.registry import Registry
from service.settings import Settings
from tests.conftest import encoded, lesion_picture
from tests.service.stand_ins import CLASSES, graph, publish

URL = "/v1/predictions"
PICTURE = encoded(lesion_picture(300, 400))


@pytest.fixture
def settings() -> Settings:
    """Parametrize to change what the site has set."""
    return Settings()


@pytest.fixture
async def client(tmp_path: Path, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    store = publish(tmp_path, {"fp32": graph(slow=True), "int8": graph(gain=1.05)})
    registry = Registry(store, "lesion7", settings.wishes())
    registry.load("production")
    app = create_app(settings, registry)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as connected,
    ):
        yield connected


async def asked(client: httpx.AsyncClient, query: dict[str, Any], fields: dict[str, Any] | None) -> httpx.Response:
    """A plain body, or a form when there are fields (which may be none)."""
    if fields is None:
        return await client.post(URL, params=query, content=PICTURE)
    return await client.post(URL, params=query, data=fields, files={"file": PICTURE})


async def test_nothing_asked_nothing_explained(client: httpx.AsyncClient) -> None:
    """Null fields, not missing ones."""
    answer = (await asked(client, {}, None)).raise_for_status().json()
    assert answer["explanation"] is None
    shown = answer["malignancy"]
    assert [shown[name] for name in ("prevalence", "positive_predictive_value", "negative_predictive_value")] == [
        None
    ] * 3


@pytest.mark.parametrize(
    ("query", "fields"), [({"explain": "mel"}, None), ({"explain": "mel"}, {}), ({}, {"explain": "mel"})]
)
async def test_a_class_is_explained_on_request(client: httpx.AsyncClient, query: dict, fields: dict | None) -> None:
    """From the query of either kind of body, and from the form: an RGBA PNG in the picture's aspect, and a note."""
    explanation = (await asked(client, query, fields)).raise_for_status().json()["explanation"]
    assert set(explanation) == {"class", "overlay", "note"}
    assert explanation["class"] == "mel"
    with Image.open(
        io.BytesIO(base64.b64decode(explanation["overlay"].removeprefix("data:image/png;base64,")))
    ) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (336, 448))


async def test_first_explains_the_first_diagnosis(client: httpx.AsyncClient) -> None:
    """Also where a prevalence has changed which one that is."""
    for query in ({}, {"prevalence": "0.001"}, {"prevalence": "0.999"}):
        answer = (await asked(client, {"explain": "first", **query}, None)).raise_for_status().json()
        assert answer["explanation"]["class"] == max(CLASSES, key=answer["probabilities"].__getitem__)


@pytest.mark.parametrize(("query", "fields"), [({"prevalence": "0.05"}, None), ({}, {"prevalence": "0.05"})])
async def test_a_prevalence_changes_what_is_shown_and_not_the_decision(
    client: httpx.AsyncClient, query: dict, fields: dict | None
) -> None:
    """Shown beside its predictive values; decision and side of the threshold stay."""
    plain = (await asked(client, {}, None)).json()
    moved = (await asked(client, query, fields)).raise_for_status().json()
    assert moved["malignancy"]["prevalence"] == 0.05
    assert moved["malignancy"]["probability"] < plain["malignancy"]["probability"]
    assert moved["malignancy"]["positive_predictive_value"] == pytest.approx(
        0.9 * 0.05 / (0.9 * 0.05 + 0.2 * 0.95), abs=1e-6
    )
    for same in ("decision", "reasons"):
        assert moved[same] == plain[same]
    assert moved["malignancy"]["above_threshold"] == plain["malignancy"]["above_threshold"]


@pytest.mark.parametrize("settings", [Settings(prevalence=0.05)], ids=["site"])
async def test_the_sites_prevalence_is_the_default(client: httpx.AsyncClient) -> None:
    """A request may name another."""
    assert (await asked(client, {}, None)).json()["malignancy"]["prevalence"] == 0.05
    assert (await asked(client, {"prevalence": "0.3"}, None)).json()["malignancy"]["prevalence"] == 0.3


@pytest.mark.parametrize(
    ("query", "fields", "words"),
    [
        ({"explain": "Roe"}, None, "explain must be 'first' or one of the classes akiec, bcc"),
        ({"explain": ""}, None, "explain must be"),
        ({}, {"explain": "Roe"}, "explain must be"),
        ({"prevalence": "Roe"}, None, "prevalence"),
        ({"prevalence": "0"}, None, "prevalence must be"),
        ({"prevalence": "1"}, None, "prevalence must be"),
        ({"prevalence": "nan"}, None, "prevalence"),
        ({}, {"prevalence": "Roe"}, "prevalence must be a number between 0 and 1"),
        ({}, {"prevalence": "1.5"}, "prevalence must be"),
        ({"explain": "mel"}, {"explain": "nv"}, "explain is given twice, with different values"),
        ({"prevalence": "0.1"}, {"prevalence": "0.2"}, "prevalence is given twice, with different values"),
        ({}, {"explain": ["mel", "nv"]}, "explain is given twice"),
        ({"explain": ["mel", "nv"]}, None, "explain is given twice"),
    ],
)
async def test_what_cannot_be_done_is_refused(
    client: httpx.AsyncClient, query: dict, fields: dict | None, words: str
) -> None:
    """422 invalid_request with a text that says what is expected and quotes nothing."""
    response = await asked(client, query, fields)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert words in response.json()["detail"]
    assert "Roe" not in response.text


async def test_the_same_in_both_places_is_no_contradiction(client: httpx.AsyncClient) -> None:
    """Numbers are compared, not their spelling."""
    both = await asked(client, {"explain": "mel", "prevalence": "0.1"}, {"explain": "mel", "prevalence": "0.10"})
    assert both.raise_for_status().json()["malignancy"]["prevalence"] == 0.1


async def test_an_option_sent_as_a_file_is_refused(client: httpx.AsyncClient) -> None:
    """Only one part of a form may be a file."""
    response = await client.post(URL, files={"file": PICTURE, "explain": b"mel"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("settings", "serves"),
    [(Settings(), "int8"), (Settings(variant="fp32"), "fp32"), (Settings(variant="int8"), "int8")],
    ids=["auto", "fp32", "int8"],
)
async def test_the_variant_that_serves_is_told(client: httpx.AsyncClient, serves: str) -> None:
    """In the answer, at /readyz, in the list of models and in the metrics."""
    assert (await asked(client, {}, None)).json()["model"]["variant"] == serves
    assert (await client.get("/readyz")).json()["model"]["variant"] == serves
    (listed,) = (await client.get("/v1/models")).json()["models"]
    assert (listed["variants"], listed["serving_variant"]) == (["fp32", "int8"], serves)
    assert f'variant="{serves}",version="1"}} 1.0' in (await client.get("/metrics")).text


async def test_a_version_of_an_older_release_hides_no_other(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """A store may keep versions that this release cannot read: they are left out, and not found by number."""
    old = tmp_path / "lesion7" / "2"
    old.mkdir()
    (old / "manifest.json").write_text('{"schema_version": 1}')
    assert [model["version"] for model in (await client.get("/v1/models")).json()["models"]] == ["1"]
    refused = await client.get("/v1/models/2")
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


async def test_decisions_and_rejections_are_counted(client: httpx.AsyncClient) -> None:
    """By decision, by reason, by what is wrong with the picture, from zero; explaining is a stage of its own."""
    await asked(client, {"explain": "first"}, None)
    await client.post(URL, content=encoded(Image.new("RGB", (300, 300), (2, 2, 2))))
    lines = (await client.get("/metrics")).text.splitlines()
    told = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("dermserve_")}
    assert told['dermserve_decisions_total{decision="abstain"}'] >= 1
    assert sum(value for name, value in told.items() if name.startswith("dermserve_decisions_total")) == 2
    assert told['dermserve_gate_rejections_total{reason="poor_quality"}'] == 1
    assert told['dermserve_gate_rejections_total{reason="not_a_lesion"}'] == 1  # the stand-in's score is the brightness
    assert told['dermserve_quality_problems_total{problem="too_dark"}'] == 1
    assert told['dermserve_quality_problems_total{problem="overexposed"}'] == 0
    assert told['dermserve_stage_duration_seconds_count{stage="explain"}'] == 1
    assert told['dermserve_stage_duration_seconds_count{stage="inference"}'] == 2
