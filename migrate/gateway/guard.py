"""Who may ask at all, as Ollama has it: web pages it was told of, and on a loopback address only names of this machine.

Without the first, any page in a browser could use the models by requests that need no permission to be sent; without
the second, a page could do so under a name of its own that points here (DNS rebinding). Facts: GenerateRoutes and
allowedHostsMiddleware in server/routes.go of Ollama 0.33, and gin's cors. Where clients need a key, the name is not
looked at: a page does not have one.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_OWN_ENDINGS = (".localhost", ".local", ".internal")


class Guard:
    """An ASGI middleware. `pages`: a regular expression of origins; `names`: whether the Host header is looked at."""

    def __init__(self, app: ASGIApp, *, pages: str, names: bool) -> None:
        self._app = app
        self._pages = re.compile(pages)
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            from starlette.datastructures import Headers
            from starlette.responses import Response

            if not self.admits(Headers(scope=scope)):
                await Response(status_code=403)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def admits(self, headers: Mapping[str, str]) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if origin and origin not in (f"http://{host}", f"https://{host}") and not self._pages.fullmatch(origin):
            return False
        return not self._names or is_own(host)


def is_own(host: str) -> bool:
    """Whether a Host header names this machine, or one of its network."""
    name = re.sub(r":\d+$", "", host) if not host.startswith("[") else host[1:].partition("]")[0]
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        name = name.lower()
        return name in ("", "localhost", socket.gethostname().lower()) or name.endswith(_OWN_ENDINGS)
    return address.is_loopback or address.is_private or address.is_unspecified


def is_loopback(host: str) -> bool:
    """Whether a server that listens there is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
