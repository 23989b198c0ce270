"""Connections of the gateway's server that end, or never begin."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from migrate.gateway.protocol import MAX_HEAD_BYTES, Protocol


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(keep_s: int, answers: Any = app) -> AsyncIterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            answers,
            http=Protocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=keep_s,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await task


def test_a_connection_without_a_request_is_closed() -> None:
    async def run() -> None:
        async with serving(1) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_one_with_a_request_is_kept() -> None:
    async def run() -> None:
        async with serving(1) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(3):
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 ")
                await asyncio.sleep(0.6)
            writer.close()

    asyncio.run(run())


def test_nothing_is_held_of_a_connection_that_was_reset() -> None:
    def held() -> int:
        gc.collect()
        return sum(isinstance(found, Protocol) for found in gc.get_objects())

    async def run() -> None:
        async with serving(60) as port:
            before = held()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"ok")
            assert held() == before + 1
            # with no time to linger, close() resets
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            async with asyncio.timeout(5):
                while held() > before:
                    await asyncio.sleep(0.05)

    asyncio.run(run())


async def told(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body that it was sent, in two pieces."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"<" + body, "more_body": True})
    await send({"type": "http.response.body", "body": b">"})


def asked(*parts: bytes) -> bytes:
    """All that the server says to these bytes, sent one after the other, until it or a second of silence ends it."""

    async def run() -> bytes:
        async with serving(60, told) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.02)
                while piece := await asyncio.wait_for(reader.read(65536), 1):
                    answer += piece
            writer.close()
            return answer

    return asyncio.run(run())


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKS = b"2\r\nhi\r\n0\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


@pytest.mark.parametrize("offer", [H2C, b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(
    ("framing", "body"), [(b"Content-Length: 2\r\n", b"hi"), (b"Transfer-Encoding: chunked\r\n", CHUNKS), (b"", b"")]
)
def test_an_offer_to_speak_another_protocol_is_ignored(offer: bytes, apart: bool, framing: bytes, body: bytes) -> None:
    head = POST + offer + framing + b"\r\n"
    request = [head, body] if apart else [head + body]
    answer = asked(*request, *request)
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b"\r\n<hi\r\n" if body else b"\r\n<\r\n") == 2


def test_a_tunnel_is_refused() -> None:
    assert asked(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    answer = asked(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
    assert answer.endswith(b"\r\n\r\n<hi>")
    assert b"transfer-encoding" not in answer
    assert b"connection: close" in answer


MANY = b"a" * MAX_HEAD_BYTES


@pytest.mark.parametrize("flood", [POST + b"X: a\r\n" * (MAX_HEAD_BYTES // 6), POST + b"X: " + MANY, b"GET /" + MANY])
def test_a_head_without_end_is_refused(flood: bytes) -> None:
    assert asked(flood).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("flood", [b"2;" + 2 * MANY, b"2\r\nhi\r\n0\r\nX: " + 2 * MANY])
def test_so_is_what_stands_beside_a_body(flood: bytes) -> None:
    async def run() -> bytes:
        async with serving(60, told) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n" + flood)
                return await asyncio.wait_for(reader.read(), 5)
            except ConnectionError:
                return b""
            finally:
                writer.close()

    assert asyncio.run(run()) == b""


def test_a_large_body_is_no_head() -> None:
    body = b"a" * (3 << 20)
    assert body in asked(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def test_a_head_that_does_not_come_to_its_end_is_closed() -> None:
    async def run() -> None:
        async with serving(1) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(5):
                    writer.write(b"GET / HTTP/1.1\r\n")
                    while not reader.at_eof():
                        writer.write(b"X: y\r\n")
                        await asyncio.sleep(0.1)
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(reader.read(100), 0.05)
            writer.close()

    asyncio.run(run())
