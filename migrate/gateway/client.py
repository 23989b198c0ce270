"""HTTP to the servers behind: aiohttp, which reads answers in C and hands over at once what arrived at once.

Beside httpx it halves the gateway's own time for a streamed answer (docs/benchmarks.md). Nothing of aiohttp shows
outside this module.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

KEEP_S = 4.0
"""How long an idle connection is kept: less than the 5 s of vLLM's server, so that it is not closed under a request."""
WRITE_S = 60.0
"""Longest time for sending a request, waiting for its answer's head not counted."""
AT_ONCE_BYTES = 1 << 20
"""A longer body is handed to the socket in pieces."""


class CannotConnect(Exception):
    """No connection; nothing was sent."""


class BrokeOff(Exception):
    """The request was begun, and there is no whole answer. `silent`: nothing came for too long."""

    def __init__(self, detail: str, *, silent: bool = False) -> None:
        super().__init__(detail)
        self.silent = silent


@dataclass(slots=True)
class Answer:
    """An answer whose body is still to be read. Close it: what has not been read by then is given up."""

    status_code: int
    headers: Mapping[str, str]
    raw_headers: tuple[tuple[bytes, bytes], ...]
    _response: aiohttp.ClientResponse

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises BrokeOff."""
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except aiohttp.SocketTimeoutError:
            raise BrokeOff("nothing came for too long", silent=True) from None
        except aiohttp.ClientPayloadError:
            raise BrokeOff("unexpected EOF") from None
        except (aiohttp.ClientError, OSError) as error:
            raise BrokeOff(str(error) or "unexpected EOF") from None

    def close(self) -> None:
        """Gives the connection back when the answer was read to its end, else closes it."""
        self._response.close()


class Client:
    """One per event loop, made inside it. `trust_env`: proxies may be taken from the environment."""

    def __init__(self, *, connect_timeout: float, trust_env: bool) -> None:
        self._connect_timeout = connect_timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Content-Type", "Accept-Encoding"),
            trust_env=trust_env,
        )

    async def send(
        self, method: str, url: str, content: bytes | None, headers: Iterable[tuple[str, str]], *, silence: float
    ) -> Answer:
        """Returns with the answer's head. `silence`: longest wait for it and for each piece that follows, in seconds.

        Raises CannotConnect, BrokeOff.
        """
        timeout = aiohttp.ClientTimeout(total=None, connect=self._connect_timeout, sock_read=silence)
        body = io.BytesIO(content) if content is not None and len(content) > AT_ONCE_BYTES else content
        try:
            async with asyncio.timeout(self._connect_timeout + WRITE_S + silence):
                response = await self._session.request(
                    method, URL(url, encoded=True), data=body, headers=headers, timeout=timeout, allow_redirects=False
                )
        except aiohttp.ConnectionTimeoutError:
            raise CannotConnect("connecting took too long") from None
        except aiohttp.ClientConnectorError as error:
            raise CannotConnect(error.os_error.strerror or str(error)) from None
        except TimeoutError:
            raise BrokeOff("nothing came for too long", silent=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise BrokeOff(str(error) or type(error).__name__) from None
        return Answer(response.status, response.headers, response.raw_headers, response)

    async def close(self) -> None:
        await self._session.close()
