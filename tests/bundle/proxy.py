"""A real nginx on an emitted nginx.conf."""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from migrate.engines.supervisor import Process
from tests.bundle.readers import program


@contextmanager
def nginx(configuration: Path, port: int) -> Iterator[Process]:
    """Runs until the block ends; listening when it begins.

    Its directory is one that nginx's workers, who are nobody when we are root, can enter; pytest's are not.
    """
    prefix = Path(tempfile.mkdtemp(prefix="proxy-"))
    prefix.chmod(0o755)
    command = [program("nginx"), "-p", str(prefix), "-c", str(configuration.resolve()), "-g", "daemon off;"]
    try:
        with Process(command, name="nginx", log=prefix / "log") as process:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                process.raise_if_dead()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
            yield process
    finally:
        shutil.rmtree(prefix, ignore_errors=True)
