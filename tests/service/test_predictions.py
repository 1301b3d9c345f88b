"""POST /v1/predictions against the real service with the shipped model: the public interface, field by field."""

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageFilter

from model_store.contract.manifest import Manifest
from service.errors import ERRORS
from tests.conftest import ROOT, RunningService, encoded, lesion_picture
from tests.malformed import Case, cases

URL = "/v1/predictions"


@pytest.fixture(scope="module")
def client(service_url: str) -> httpx.Client:
    with httpx.Client(base_url=service_url, timeout=60) as connected:
        yield connected


def test_the_answer_has_exactly_the_documented_fields(client: httpx.Client, manifest: Manifest) -> None:
    """Fields, order of diagnoses, sums and types are those of the public interface."""
    answer = client.post(URL, files={"file": encoded(lesion_picture())}).raise_for_status().json()
    assert {name: set(part) if isinstance(part, dict) else None for name, part in answer.items()} == {
        "request_id": None,
        "model": {"name", "version", "digest", "variant"},
        "decision": None,
        "reasons": None,
        "diagnoses": None,
        "probabilities": set(manifest.classes),
        "malignancy": {
            "probability",
            "threshold",
            "above_threshold",
            "prevalence",
            "positive_predictive_value",
            "negative_predictive_value",
        },
        "quality": {"accepted", "problems", "scores"},
        "certainty": {"accepted", "score", "threshold"},
        "in_distribution": {"accepted", "score", "threshold"},
        "explanation": None,
        "warnings": None,
        "timing_ms": {"decode", "preprocess", "queue", "inference", "total"},
    }
    scores = {"min_side_pixels", "sharpness", "brightness", "dark_share", "bright_share", "contrast"}
    assert set(answer["quality"]["scores"]) == scores
    assert answer["model"]["name"] == manifest.name
    probabilities = answer["probabilities"]
    assert list(probabilities) == list(manifest.classes)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
    best_first = sorted(probabilities, key=lambda code: -probabilities[code])
    shown = best_first[:2] if answer["in_distribution"]["accepted"] else []
    assert [d["code"] for d in answer["diagnoses"]] == shown
    malignant = sum(p for p, bad in zip(probabilities.values(), manifest.malignant, strict=True) if bad)
    assert answer["malignancy"]["probability"] == pytest.approx(malignant, abs=1e-4)
    assert answer["malignancy"]["above_threshold"] == (malignant >= answer["malignancy"]["threshold"])


def darkened(picture: Image.Image) -> Image.Image:
    return picture.point(lambda level: level // 12)


def brightened(picture: Image.Image) -> Image.Image:
    return picture.point(lambda level: min(255, level * 3))


@pytest.mark.parametrize(
    ("spoilt", "problem", "advice"),
    [
        (darkened(lesion_picture()), "too_dark", "more light"),
        (brightened(lesion_picture()), "overexposed", "less light"),
        (lesion_picture().filter(ImageFilter.GaussianBlur(15)), "blurred", "focus"),
        (Image.new("RGB", (600, 450), (200, 150, 130)), "uniform", "lens"),
        (lesion_picture(60, 45), "too_small", "full resolution"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_poor_picture_is_not_judged(client: httpx.Client, spoilt: Image.Image, problem: str, advice: str) -> None:
    """Dark, overexposed, blurred, uniform, tiny: the answer abstains, names the problem and says what to do."""
    answer = client.post(URL, content=encoded(spoilt, "PNG")).raise_for_status().json()
    assert answer["decision"] == "abstain"
    assert "poor_quality" in answer["reasons"]
    assert not answer["quality"]["accepted"]
    assert problem in answer["quality"]["problems"]
    assert advice in " ".join(answer["warnings"])


def test_a_generated_lesion_is_good_enough_to_be_judged(client: httpx.Client) -> None:
    """The same picture unspoilt has no quality problem, so the test above sees the spoiling."""
    answer = client.post(URL, content=encoded(lesion_picture(), "PNG")).raise_for_status().json()
    assert answer["quality"]["problems"] == []


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", "image/png", ""])
def test_a_plain_body_gives_the_same_answer(client: httpx.Client, content_type: str) -> None:
    """Plain and multipart bodies are equal; the header's claim of a format does not matter."""
    picture = encoded(lesion_picture())
    plain = client.post(URL, content=picture, headers={"Content-Type": content_type}).raise_for_status().json()
    form = client.post(URL, files={"file": ("a name.jpg", picture, "image/png")}).raise_for_status().json()
    assert plain["probabilities"] == form["probabilities"]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_kind_of_input_ends_as_documented(client: httpx.Client, case: Case) -> None:
    """Each malformed input: the documented status and problem body, or a right answer where the picture is valid."""
    response = client.post(URL, files={"file": ("file.jpg", case.body)})
    body = response.json()
    outcome = (response.status_code, body.get("code", ""))
    assert outcome in case.expected
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
        assert set(body) == {"type", "title", "status", "detail", "code", "request_id"}
        assert body["request_id"] == response.headers["x-request-id"]


def test_bad_inputs_do_not_disturb_others(client: httpx.Client) -> None:
    """While every malformed input is sent, good pictures get the answer that they always get."""
    picture = encoded(lesion_picture())
    expected = client.post(URL, content=picture).json()["probabilities"]
    with ThreadPoolExecutor(4) as threads:
        bad = [threads.submit(client.post, URL, content=case.body) for case in cases()]
        for _ in range(30):
            assert client.post(URL, content=picture).json()["probabilities"] == expected
    assert [job.result().text for job in bad if job.result().status_code >= 500] == []


@pytest.mark.parametrize(
    ("request_parts", "status", "code"),
    [
        ({"files": {"other": b"x"}}, 422, "invalid_request"),
        ({"files": {"file": (None, "text, not a file")}}, 422, "invalid_request"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 422, "invalid_request"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 422, "invalid_request"),
        ({"content": b"x", "headers": {"X-Timeout-Seconds": "soon"}}, 422, "invalid_request"),
        ({"content": b"x", "headers": {"X-Timeout-Seconds": "-1"}}, 422, "invalid_request"),
        ({"content": bytes(26_000_000)}, 413, "payload_too_large"),
        ({"content": iter([bytes(1_000_000)] * 26)}, 413, "payload_too_large"),
    ],
)
def test_malformed_requests(client: httpx.Client, request_parts: dict, status: int, code: str) -> None:
    """A request that is wrong in itself gets its own status and a problem body."""
    try:
        response = client.post(URL, **request_parts)
    except httpx.WriteError:
        assert status == 413  # refused while still sending: the connection may be closed first
        return
    assert (response.status_code, response.json()["code"]) == (status, code)


def test_the_client_can_lower_the_deadline(client: httpx.Client) -> None:
    """A deadline that cannot be met gives 503 or 504, never a late answer."""
    response = client.post(URL, content=encoded(lesion_picture()), headers={"X-Timeout-Seconds": "0.000001"})
    assert (response.status_code, response.json()["code"]) in {(504, "deadline_exceeded"), (503, "overloaded")}


def test_the_callers_request_id_comes_back(client: httpx.Client) -> None:
    """A harmless id is kept; one with other characters is replaced, so nothing can be smuggled into logs."""
    name = uuid.uuid4().hex
    picture = encoded(lesion_picture())
    assert client.post(URL, content=picture, headers={"X-Request-ID": name}).json()["request_id"] == name
    other = client.post(URL, content=picture, headers={"X-Request-ID": "Jane Roe, born 1970"})
    assert "Roe" not in other.json()["request_id"]


def test_unknown_paths_and_methods_are_problems_too(client: httpx.Client) -> None:
    """404 and 405 have the same body as every other error."""
    assert client.get("/v1/nothing").json()["code"] == "not_found"
    assert client.get(URL).json()["code"] == "method_not_allowed"
    assert client.get("/v1/models/999").json()["code"] == "not_found"


def test_health_and_models(client: httpx.Client, manifest: Manifest) -> None:
    """Live, ready, the list of versions and one version with its card."""
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["status"] == "ready"
    serving = [m for m in client.get("/v1/models").json()["models"] if m["status"] == "serving"]
    assert [m["version"] for m in serving] == [manifest.version]
    shown = client.get("/v1/models/production").json()
    assert shown["manifest"]["version"] == manifest.version
    assert shown["model_card"].startswith("#")


def test_the_documentation_needs_no_other_server(client: httpx.Client) -> None:
    """/docs and what it loads come from here."""
    docs = client.get("/docs").raise_for_status().text
    assert "https://" not in docs
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_all_error_codes_are_documented() -> None:
    """Every code stands in the README's table with its status."""
    readme = (ROOT / "README.md").read_text()
    assert [e.code for e in ERRORS if f"| {e.status} | `{e.code}` |" not in readme] == []


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    """A prediction is counted by status, in the latency histogram with its 3-second edge, per stage and by decision."""

    def total(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    names = (
        'dermserve_requests_total{method="POST",route="/v1/predictions",status="200"}',
        'dermserve_request_duration_seconds_bucket{le="3.0",route="/v1/predictions"}',
        'dermserve_stage_duration_seconds_count{stage="inference"}',
        "dermserve_decisions_total",
        "dermserve_batch_size_count",
    )
    before = [total(name) for name in names]
    client.post(URL, content=encoded(lesion_picture())).raise_for_status()
    assert [total(name) for name in names] == [value + 1 for value in before]


def test_threads_of_libraries_are_counted(service: RunningService, client: httpx.Client) -> None:
    """ONNX Runtime's and the decoder's threads too: a leak of them is seen."""
    threads = Path(f"/proc/{service.process.pid}/task")
    if not threads.is_dir():
        pytest.skip("needs /proc")
    lines = client.get("/metrics").text.splitlines()
    counted = next(float(line.split()[-1]) for line in lines if line.startswith("process_threads "))
    assert counted == pytest.approx(len(list(threads.iterdir())), abs=1)  # one may come or go between


def test_logs_hold_no_patient_data(service: RunningService, client: httpx.Client) -> None:
    """File names, query strings, paths and metadata that name a patient appear in no log line; each line is JSON."""
    picture = encoded(lesion_picture(), comment=b"Zebulon Metadata")
    client.post(URL, files={"file": ("Zebulon Filename.jpg", picture)}, params={"patient": "Zebulon Query"})
    client.post("/v1/Zebulon-Path", content=picture)
    tiff = encoded(lesion_picture(), "TIFF", compression="tiff_lzw")
    client.post(URL, content=tiff[:8] + bytes(200) + tiff[208:])  # libtiff has a line of its own for this
    client.post(URL, content=picture[:2000], headers={"X-Patient": "Zebulon Header"})
    text = service.log.read_text()
    assert "Zebulon" not in text
    assert all(json.loads(line)["event"] for line in text.splitlines())


def test_nothing_is_written_to_disk(service: RunningService, client: httpx.Client) -> None:
    """A large multipart upload opens no file: the process's file descriptors are pipes, sockets and its log alone."""
    descriptors = Path(f"/proc/{service.process.pid}/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    body = encoded(lesion_picture(3000, 2000), "PNG")
    assert len(body) > 2_000_000
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(client.post, URL, files={"file": body})
        seen: set[str] = set()
        while not sending.done():
            seen |= {_target(link) for link in descriptors.iterdir()}
    assert sending.result().status_code == 200
    assert [path for path in seen if "/tmp" in path and path != str(service.log)] == []


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


async def test_callers_who_leave_are_noticed(service_url: str) -> None:
    """Connections closed before the answer: the service counts them and goes on."""
    picture = encoded(lesion_picture(2000, 1500), "PNG")
    head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
    host, port = service_url.removeprefix("http://").split(":")
    for _ in range(10):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + picture)
        await writer.drain()
        writer.close()
    for _ in range(5):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + picture[:1000])  # and some in the middle of their upload
        await writer.drain()
        writer.close()
    async with httpx.AsyncClient(base_url=service_url, timeout=60) as client:
        async with asyncio.timeout(60):
            while "dermserve_requests_in_flight 1.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.05)
        metrics = (await client.get("/metrics")).text
        abandoned = [line for line in metrics.splitlines() if line.startswith("dermserve_abandoned_total")]
        assert float(abandoned[0].split()[-1]) >= 5
        assert (await client.post(URL, content=encoded(lesion_picture()))).status_code == 200
