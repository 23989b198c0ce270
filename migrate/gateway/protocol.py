"""uvicorn's HTTP protocol, with two gaps closed. For `migrate.gateway.server`.

uvicorn (0.54) bounds the time between two requests of a connection, but not the time before the first, and it forgets
to stop that clock when a connection is reset: it would hold what belongs to the connection until then.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Protocol(HttpToolsProtocol):
    """A connection that says nothing is closed like one that has nothing more to say."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
