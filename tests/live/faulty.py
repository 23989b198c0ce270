"""A proxy in front of a real server that does what servers do when they are unwell."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError

Fault = Callable[[BaseHTTPRequestHandler, int], bool]
"""(handler, number of the POST request from 1) -> whether it was dealt with; False passes it on."""


def answers_500(*numbers: int) -> Fault:
    def fault(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number in numbers:
            _answer(handler, 500, b'{"error": "internal error"}')
        return number in numbers

    return fault


def garbage(after: int) -> Fault:
    def fault(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number > after:
            _answer(handler, 200, b"\x00\xff<html>" * 50)
        return number > after

    return fault


def hangs(after: int, released: threading.Event) -> Fault:
    """Says nothing until `released` is set."""

    def fault(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number > after:
            released.wait(30.0)
            handler.close_connection = True
        return number > after

    return fault


def breaks_off(after: int) -> Fault:
    """Promises more than it sends."""

    def fault(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number > after:
            handler.send_response(200)
            handler.send_header("Content-Length", "5000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [')
            handler.close_connection = True
        return number > after

    return fault


def restarts(after: int, seconds: float) -> Fault:
    """Drops every connection for so long, then is back."""
    began: list[float] = []

    def fault(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number <= after:
            return False
        began.append(time.monotonic())
        if time.monotonic() - began[0] < seconds:
            handler.close_connection = True
            return True
        return False

    return fault


def _answer(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def in_front_of(url: str, fault: Fault) -> Iterator[str]:
    """The address of the proxy."""
    lock, count = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on(None)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                count[0] += 1
                number = count[0]
            if not fault(self, number):
                self._pass_on(body)

        def _pass_on(self, body: bytes | None) -> None:
            request = urllib.request.Request(url + self.path, data=body, headers={"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    _answer(self, answer.status, answer.read())
            except HTTPError as error:
                with error:
                    _answer(self, error.code, error.read())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
