"""The load test's own HTTP client."""

import asyncio

import pytest

from loadtests.http_client import HttpProtocolError, Origin, fetch
from tests.loadtests.scripted_server import Reply


def post(origin, body=b"picture"):
    """A request as the generator sends it."""
    return origin.head("POST", "/v1/predictions", {"Content-Type": "image/jpeg"}, len(body)) + body


async def raw_reply(server, pool, raw):
    """What the client makes of these bytes."""

    async def script(_number):
        return Reply(raw=raw)

    server.script = script
    return await pool.send(post(pool.origin))


async def test_content_length(server):
    """An answer with Content-Length is read whole, header names in lower case."""
    answer = await fetch(Origin(server.url), "/readyz")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"{}", "2")


async def test_chunks(server, pool):
    """A chunked answer is put together again, chunk extensions and trailers left out."""
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nderm\r\n5\r\nserve\r\n0\r\nT: 1\r\n\r\n"
    answer = await raw_reply(server, pool, raw)
    assert answer.body == b"dermserve"
    assert answer.keeps_connection


async def test_interim_answers_are_skipped(server, pool):
    """100 Continue is not the answer."""
    answer = await raw_reply(
        server, pool, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 502 Bad\r\nContent-Length: 9\r\n\r\nhalf", b"SSH-2.0-hello\r\n\r\n", b"HTTP/1.1 oops\r\n\r\n"],
)
async def test_broken_answers(server, pool, raw):
    """An answer that ends early or is not HTTP is an error, never an answer."""
    with pytest.raises((HttpProtocolError, ConnectionError)):
        await raw_reply(server, pool, raw)


async def test_connections_are_kept(server, pool):
    """Requests one after the other share one connection."""
    for _ in range(5):
        await pool.send(post(pool.origin))
    assert (pool.opened, server.connections) == (1, 1)


async def test_connection_close_is_obeyed(server, pool):
    """After Connection: close the next request opens a new connection."""

    async def script(_number):
        return Reply(headers={"Connection": "close"})

    server.script = script
    await pool.send(post(pool.origin))
    await pool.send(post(pool.origin))
    assert pool.opened == 2


async def test_a_cancelled_request_takes_its_connection_along(server, pool):
    """The answer to a request that timed out never becomes the answer to the next one."""
    asked = asyncio.Event()

    async def script(number):
        if number == 0:
            asked.set()
            await asyncio.Event().wait()
        return Reply(body=b"second")

    server.script = script
    first = asyncio.create_task(pool.send(post(pool.origin)))
    await asked.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await pool.send(post(pool.origin))).body == b"second"
    assert pool.opened == 2


async def test_an_answer_may_come_before_the_body_is_read(server, pool):
    """A refusal sent before the server has read the picture is received."""
    server.answers_before_the_body = True
    for _ in range(2):
        assert (await pool.send(post(pool.origin, b"x" * 5_000_000))).status == 200


@pytest.mark.parametrize("url", ["ftp://example.org", "http://", "http://host:notaport"])
def test_wrong_urls(url):
    """What is not an http URL is refused with a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        Origin(url)
