"""uvicorn's HTTP protocol, with its gaps closed. For `migrate.gateway.server`.

uvicorn (0.54) bounds the time between two requests of a connection, but not the time before the first, nor the time and
the bytes a request's head may take, and it forgets to stop that clock when a connection is reset: it would hold what
belongs to the connection until then. It loses the body of a request that offers to go on with HTTP/2 (`Upgrade: h2c`),
as Java's HttpClient does by default; a server may ignore the offer (RFC 9110, 7.8), and Ollama does. It sends chunks to
clients of HTTP/1.0, which know none (RFC 9112, 6.1).
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 1 << 20
"""Of a request's first line and headers, as in Go (DefaultMaxHeaderBytes); of a chunk's head; of trailers. A piece is
read at once, so it is not exact."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 35\r\nconnection: close\r\n\r\n431 Request Header Fields Too Large"
)
_OFFERS = (b"upgrade", b"http2-settings", b"connection")


class Protocol(HttpToolsProtocol):
    """A connection that says nothing is closed like one that has nothing more to say, and one that never comes to the
    end of a request's head, too."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._beside_body = 0
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        self._beside_body += len(data)
        if self._beside_body > MAX_HEAD_BYTES:
            if not self._answering():
                self.transport.write(_TOO_LARGE)
            self.transport.close()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._without_offer(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.logger.warning("a request that is not HTTP was refused")
            self.send_400_response("Invalid HTTP request received.")

    def _without_offer(self, rest: bytes) -> None:
        """Reads the head again without its offer to speak another protocol; `rest` follows it."""
        method = self.parser.get_method()
        if method == b"CONNECT":  # it asks for a tunnel, whatever its headers
            self.send_400_response("Invalid HTTP request received.")
            return
        head = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        head += [b"%b: %b" % pair for pair in self.headers if pair[0] not in _OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self._beside_body = 0
        self.data_received(b"\r\n".join([*head, b"", b""]) + rest)

    # ---- callbacks of the parser ------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arm()

    def on_headers_complete(self) -> None:
        self._beside_body = 0
        if self.parser.should_upgrade():
            return
        self._unset_keepalive_if_required()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            _without_chunks(self.cycle)

    def on_chunk_header(self) -> None:
        self._beside_body = 0

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._beside_body = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    # ---- the clock --------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        if self._answering():  # a second request has begun while the first is answered
            self._arm()
        else:
            super().timeout_keep_alive_handler()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete


def _without_chunks(cycle: RequestResponseCycle) -> None:
    """An answer without Content-Length ends with the connection."""
    send = cycle.send
    until_close = False

    async def sent(message: Any) -> None:
        nonlocal until_close
        if message["type"] == "http.response.start":
            until_close = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if until_close:
                cycle.chunked_encoding = False
        elif until_close:  # uvicorn counts down to 0 at the end
            cycle.expected_content_length = len(message.get("body", b"")) + bool(message.get("more_body"))
        await send(message)

    cycle.send = sent  # type: ignore[method-assign]
