"""The way of a request through the service: what it holds, what it costs, and what it tells of both."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from service import analysis
from service.app import create_app
from service.metrics import STAGES
from service.registry import Registry
from service.settings import Settings
from tests.conftest import encoded, lesion_picture
from tests.service.stand_ins import graph, publish

URL = "/v1/predictions"
SMALL = encoded(lesion_picture(300, 200))


class Inside:
    """The application without a server, and what it holds."""

    def __init__(self, app: Any) -> None:
        self.app, self.services = app, app.state.services
        self.lanes = self.services.predictor.lanes

    def metric(self, name: str, **labels: str) -> float:
        return self.app.state.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def holds_nothing(self) -> bool:
        """No byte, no place in a line, no work in the ledger."""
        waiting = self.lanes.line.waiting + self.lanes.slow.waiting
        return (self.services.bodies.held_bytes, waiting, self.services.admission.backlog_seconds) == (0, 0, 0)

    def call(self, *messages: Message) -> tuple[asyncio.Task[None], list[Message], "asyncio.Queue[Message]"]:
        """A POST by hand: the running request, what it has sent, and the queue that it receives from."""
        receiving: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            receiving.put_nowait(message)
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": URL,
            "raw_path": URL.encode(),
            "query_string": b"",
            "headers": [],
            "state": {},
        }
        return asyncio.create_task(self.app(scope, receiving.get, send)), sent, receiving


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


GONE: Message = {"type": "http.disconnect"}


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Inside]:
    settings = Settings(workers=1, max_batch_size=1)
    registry = Registry(publish(tmp_path, {"fp32": graph()}), "lesion7", settings.wishes())
    registry.load("production")
    app = create_app(settings, registry)
    async with app.router.lifespan_context(app):
        yield Inside(app)


@pytest.fixture
async def client(inside: Inside) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(inside.app), base_url="http://test") as connected:
        yield connected


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[threading.Event]:
    """Decoding waits until it is set."""
    opened, real = threading.Event(), analysis.decode
    monkeypatch.setattr(analysis, "decode", lambda *arguments: (opened.wait(60), real(*arguments))[1])
    yield opened
    opened.set()


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_stages_add_up_to_the_whole(inside: Inside, client: httpx.AsyncClient) -> None:
    """In their sums, to 1 %; every answered request is counted in each of them, and what nobody asked for in none."""
    async with asyncio.TaskGroup() as together:
        for number in range(12):
            query = {"explain": "first"} if number % 3 == 0 else {}
            together.create_task(client.post(URL, content=SMALL, params=query))
    stages = [inside.metric("dermserve_stage_duration_seconds_sum", stage=stage) for stage in STAGES]
    counts = {stage: inside.metric("dermserve_stage_duration_seconds_count", stage=stage) for stage in STAGES}
    assert counts == dict.fromkeys(STAGES, 12) | {"explain": 4}
    assert inside.metric("dermserve_prediction_duration_seconds_count") == 12
    assert sum(stages) == pytest.approx(inside.metric("dermserve_prediction_duration_seconds_sum"), rel=0.01)
    assert min(stages) >= 0


async def test_the_share_within_three_seconds_has_an_exact_edge(inside: Inside, client: httpx.AsyncClient) -> None:
    """The histogram has a bucket that ends at 3.0 and the gauge says the same."""
    await client.post(URL, content=SMALL)
    within = inside.metric("dermserve_prediction_duration_seconds_bucket", le="3.0")
    assert within == inside.metric("dermserve_prediction_duration_seconds_count") == 1
    assert inside.metric("dermserve_within_target_ratio") == 1


async def test_predicted_is_held_against_actual(inside: Inside, client: httpx.AsyncClient) -> None:
    """Each admitted and answered request gives one ratio; a picture that cannot be read gives none."""
    await client.post(URL, content=SMALL)
    await client.post(URL, content=SMALL[:300])
    assert inside.metric("dermserve_finish_prediction_ratio_count") == 1


async def test_a_picture_is_alone_until_another_one_comes(inside: Inside, gate: threading.Event) -> None:
    """Whether it waits for a worker or in the slow lane: then the network no longer gets every core."""
    first, _, _ = inside.call(body(SMALL))
    await until(lambda: inside.lanes.line.running == 1)
    assert inside.lanes.one_batch_in_work
    large, _, _ = inside.call(body(encoded(lesion_picture(2000, 1500), "PNG")))
    await until(lambda: inside.lanes.slow.running == 1)
    assert not inside.lanes.one_batch_in_work
    second, _, _ = inside.call(body(SMALL))
    await until(lambda: inside.lanes.line.running == 2)  # handed over ahead
    assert not inside.lanes.one_batch_in_work
    gate.set()
    await asyncio.gather(first, large, second)
    assert not inside.lanes.one_batch_in_work


async def test_a_caller_who_leaves_while_uploading_frees_the_bytes(inside: Inside) -> None:
    """Nothing is held any more; the departure is counted."""
    running, _, receiving = inside.call(body(SMALL[:1000], more=True))
    await until(lambda: inside.services.bodies.held_bytes > 1000)
    receiving.put_nowait(GONE)
    await running
    assert inside.holds_nothing
    assert inside.metric("dermserve_abandoned_total") == 1


async def test_a_caller_who_leaves_the_line_frees_the_place(inside: Inside, gate: threading.Event) -> None:
    """Before a worker takes the picture: it never reaches one. So it is where it was handed over ahead."""
    first, _, _ = inside.call(body(SMALL))
    await until(lambda: inside.lanes.line.running == 1)
    leaving = [inside.call(body(SMALL)) for _ in range(2)]
    await until(lambda: (inside.lanes.line.running, inside.lanes.line.waiting) == (2, 1))
    for running, _, receiving in leaving:
        receiving.put_nowait(GONE)
        await running
    assert inside.lanes.line.waiting == 0
    gate.set()
    await first
    await until(lambda: inside.lanes.line.running == 0)
    assert inside.holds_nothing
    assert inside.metric("dermserve_batch_size_sum") == 1
    assert inside.metric("dermserve_dropped_total", reason="departed") == 2


async def test_a_caller_who_leaves_a_worker_frees_the_rest(inside: Inside, gate: threading.Event) -> None:
    """The ledger and the bytes at once, the worker when it has finished; the next caller is answered."""
    running, _, receiving = inside.call(body(SMALL))
    await until(lambda: inside.lanes.line.running == 1)
    receiving.put_nowait(GONE)
    await running
    assert inside.holds_nothing
    gate.set()
    answered, sent, _ = inside.call(body(SMALL))
    await answered
    assert sent[0]["status"] == 200


async def test_a_caller_who_leaves_the_slow_lane_frees_the_place(inside: Inside, gate: threading.Event) -> None:
    """Waiting or being decoded there: the small ones behind it never notice."""
    large = encoded(lesion_picture(2000, 1500), "PNG")
    calls = [inside.call(body(large)) for _ in range(2)]
    await until(lambda: inside.lanes.slow.waiting == inside.lanes.slow.running == 1)
    for _, _, receiving in calls:
        receiving.put_nowait(GONE)
    await asyncio.gather(*(running for running, _, _ in calls))
    assert inside.holds_nothing
    gate.set()
    answered, sent, _ = inside.call(body(SMALL))
    await answered
    assert sent[0]["status"] == 200
    assert inside.metric("dermserve_batch_size_sum") == 1


async def test_a_server_that_stops_is_no_departure(inside: Inside, gate: threading.Event) -> None:
    """A cancelled request is cancelled, and not counted as abandoned."""
    running, _, _ = inside.call(body(SMALL))
    await until(lambda: inside.lanes.line.running == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert inside.holds_nothing
    assert inside.metric("dermserve_abandoned_total") == 0


async def test_a_slow_picture_does_not_block_small_ones(
    inside: Inside, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a large PNG is decoded in its lane, the only worker answers others; then it is answered too."""
    decoding, real = threading.Event(), analysis.decode

    def slow_for_large(data: bytes, *rest: Any) -> Any:
        if len(data) == len(large):
            assert decoding.wait(60)
        return real(data, *rest)

    large = encoded(lesion_picture(2000, 1500), "PNG")
    monkeypatch.setattr(analysis, "decode", slow_for_large)
    async with asyncio.TaskGroup() as together:
        waiting = together.create_task(client.post(URL, content=large))
        await until(lambda: inside.lanes.slow.running == 1)
        for _ in range(3):
            assert (await client.post(URL, content=SMALL)).status_code == 200
        assert not waiting.done()
        decoding.set()
    assert waiting.result().status_code == 200
    assert inside.holds_nothing


async def test_a_deadline_that_passes_in_the_line_is_told(
    inside: Inside, client: httpx.AsyncClient, gate: threading.Event
) -> None:
    """504 when it passes, without waiting for a worker."""
    first, _, _ = inside.call(body(SMALL))
    await until(lambda: inside.lanes.line.running == 1)
    late = await client.post(URL, content=SMALL, headers={"X-Timeout-Seconds": "0.2"})
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    gate.set()
    await first
    assert inside.holds_nothing


async def test_one_bad_picture_among_eight_costs_only_itself(inside: Inside, client: httpx.AsyncClient) -> None:
    """Seven are answered, the eighth is told what is wrong."""
    files = [SMALL] * 3 + [SMALL[:300]] + [SMALL] * 4
    answers = await asyncio.gather(*(client.post(URL, content=file) for file in files))
    assert [answer.status_code for answer in answers] == [200] * 3 + [400] + [200] * 4


@pytest.mark.parametrize(
    "ending", ["answered", "damaged", "damaged in the slow lane", "expired", "departed", "unknown class"]
)
async def test_nothing_is_kept_of_a_request_that_has_ended(inside: Inside, ending: str) -> None:
    """No picture and no model that was swapped out stays in memory until the garbage collector comes by."""
    picture = encoded(lesion_picture(2600, 2000)) if "slow" in ending else SMALL
    data = picture[: len(picture) // 2] if ending.startswith("damaged") else picture
    headers = {"X-Timeout-Seconds": "0.001"} if ending == "expired" else {}
    query = "?explain=nothing" if ending == "unknown class" else ""
    statuses = {"answered": 200, "expired": 504, "unknown class": 422}
    gc.collect()
    gc.disable()
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(inside.app), base_url="http://test") as client:
            if ending == "departed":
                request, _, receiving = inside.call(body(data))
                receiving.put_nowait(GONE)
                await request
            else:
                response = await client.post(URL + query, content=data, headers=headers)
                assert response.status_code == statuses.get(ending, 400)
        async with asyncio.timeout(10):  # the worker lets go a moment after its answer
            while any(isinstance(item, analysis.Submission) for item in gc.get_objects()):
                await asyncio.sleep(0.01)
    finally:
        gc.enable()
