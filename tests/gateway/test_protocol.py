"""Connections of the gateway's server that end, or never begin."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import uvicorn

from migrate.gateway.protocol import Protocol


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving(keep_s: int) -> AsyncIterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, http=Protocol, log_config=None, access_log=False, lifespan="off", ws="none", timeout_keep_alive=keep_s
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
