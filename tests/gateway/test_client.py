"""The HTTP client of the upstreams, against sockets that behave as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from migrate.gateway.client import AT_ONCE_BYTES, KEEP_S, Answer, BrokeOff, CannotConnect, Client

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nX-One: a\r\nX-One: b\r\nTransfer-Encoding: chunked\r\n\r\n"


async def request_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one request with a Content-Length, or without a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), b"0")
    return head, await reader.readexactly(int(length))


def asked(serve: Serve, ask: Callable[[Client, str], Awaitable[None]], *, connect_timeout: float = 5.0) -> None:
    async def run() -> None:
        server = await asyncio.start_server(_closing(serve), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = Client(connect_timeout=connect_timeout, trust_env=False)
        try:
            await ask(client, url)
        finally:
            await client.close()
            server.close()

    asyncio.run(run())


def _closing(serve: Serve) -> Serve:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return served


async def body(answer: Answer) -> bytes:
    try:
        return b"".join([piece async for piece in answer.pieces()])
    finally:
        answer.close()


async def post(client: Client, url: str, content: bytes = b"{}", silence: float = 5.0) -> Answer:
    return await client.send("POST", url + "/a%2Fb?c=%20d", content, [("content-type", "x/y")], silence=silence)


def test_what_is_sent_and_what_comes_back() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head, content = await request_of(reader)
            heads.append(head)
            writer.write(HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))

    async def ask(client: Client, url: str) -> None:
        for content in (b"hello", b"x" * (AT_ONCE_BYTES + 1)):
            answer = await post(client, url, content)
            assert answer.status_code == 200
            assert [value for name, value in answer.raw_headers if name == b"X-One"] == [b"a", b"b"]
            assert await body(answer) == content

    asked(serve, ask)
    names = {line.split(b":")[0].lower() for line in heads[0].split(b"\r\n")[1:] if line}
    assert heads[0].startswith(b"POST /a%2Fb?c=%20d HTTP/1.1\r\n")
    assert names == {b"host", b"accept", b"content-type", b"content-length"}
    assert len(heads) == 2  # over one connection


def test_pieces_come_as_they_are_sent() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(HEAD + b"1\r\na\r\n")
        await reader.readexactly(1)  # which nobody sends: the first piece is not waiting for a second

    async def ask(client: Client, url: str) -> None:
        answer = await post(client, url)
        assert await anext(answer.pieces()) == b"a"
        answer.close()

    asked(serve, ask)


@pytest.mark.parametrize(
    ("sent", "head_comes"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\nX-", False),
        (HEAD + b"5\r\nab", True),
        (HEAD + b"2\r\nab\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", True),
    ],
)
@pytest.mark.parametrize("silent", [False, True])
def test_an_answer_that_breaks_off(sent: bytes, head_comes: bool, silent: bool) -> None:

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(sent)
        await writer.drain()
        if silent:
            await reader.read(1)  # until the client gives up

    async def whole(client: Client, url: str) -> None:
        answer = await post(client, url, silence=0.3 if silent else 5.0)
        assert head_comes
        await body(answer)

    async def ask(client: Client, url: str) -> None:
        began = time.monotonic()
        with pytest.raises(BrokeOff) as broke:
            await whole(client, url)
        assert broke.value.silent is silent
        assert str(broke.value)
        assert time.monotonic() - began < 4

    asked(serve, ask)


def test_an_answer_that_is_not_http() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"not HTTP\r\n\r\n")
        await reader.read(1)

    async def ask(client: Client, url: str) -> None:
        with pytest.raises(BrokeOff):
            await post(client, url)

    asked(serve, ask)


def test_nobody_listens() -> None:
    async def run() -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        client = Client(connect_timeout=2.0, trust_env=False)
        for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid"):
            with pytest.raises(CannotConnect) as refused:
                await post(client, url)
            assert str(refused.value)
        await client.close()

    asyncio.run(run())


def test_a_request_that_is_given_up_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        assert await reader.read(1) == b""
        closed.set()

    async def ask(client: Client, url: str) -> None:
        task = asyncio.create_task(post(client, url))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(1):
            await closed.wait()

    asked(serve, ask)


def test_connections_are_kept_for_less_than_vllm_keeps_them() -> None:
    """VLLM_HTTP_TIMEOUT_KEEP_ALIVE is 5 s."""
    assert KEEP_S < 5
