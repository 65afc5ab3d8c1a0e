"""The scripted API over HTTP/1.1: one thread per connection, connections kept alive, any answer cut anywhere."""

from __future__ import annotations

import contextlib
import http
import socket
import socketserver
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Final

from session.testing import _answers

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import anthropic

    from session.testing.api import ScriptedApi
    from session.testing.script import How

_NO_LINGER: Final = struct.pack("ii", 1, 0)
_POLL_SECONDS: Final = 0.02
_STATUSES: Final = {status.value: status.phrase for status in http.HTTPStatus} | {529: "Overloaded"}


class LoopbackServer:
    """A `ScriptedApi` on a free port of 127.0.0.1, running from the start until closed. Closing twice is fine."""

    def __init__(self, api: ScriptedApi) -> None:
        self.api = api
        self._server = _Server(api)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<LoopbackServer: {self.base_url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """What the client's `base_url` (or ANTHROPIC_BASE_URL) is to be."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections were accepted so far."""
        return self._server.accepted

    def client(self, **options: Any) -> anthropic.Anthropic:  # noqa: ANN401 - the SDK's own options
        """The real client on this server, without retries unless told otherwise. The caller closes it."""
        from session.testing import _transport  # noqa: PLC0415 - a server needs no client

        return _transport.client(None, base_url=self.base_url, **options)

    def async_client(self, **options: Any) -> anthropic.AsyncAnthropic:  # noqa: ANN401 - the SDK's own options
        """The real asynchronous client on this server, as `client`."""
        from session.testing import _transport  # noqa: PLC0415 - a server needs no client

        return _transport.async_client(None, base_url=self.base_url, **options)

    def close(self) -> None:
        """Drop all connections and stop. Its threads have ended when this returns, unless the script still runs."""
        self._server.shutdown()
        self._thread.join()
        self._server.drop_connections()
        self._server.server_close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Knows its connections, so that closing it does not wait for clients."""

    request_queue_size = 128
    daemon_threads = True  # a server that nobody closes must not keep the process alive

    def __init__(self, api: ScriptedApi) -> None:
        self.api = api
        self.accepted = 0
        self.closing = threading.Event()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as inherited
        thread = threading.Thread(target=self._serve_connection, args=(request, client_address), daemon=True)
        with self._lock:
            self.accepted += 1
            self._open[thread] = request
        thread.start()

    def _serve_connection(self, request: socket.socket, client_address: Any) -> None:  # noqa: ANN401 - as inherited
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._open[threading.current_thread()]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as inherited
        """Clients that went away are no error; the answer was on its way to nobody."""

    def drop_connections(self) -> None:
        self.closing.set()
        with self._lock:
            threads = dict(self._open)
        for connection in threads.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(timeout=1.0)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        body = self._read_body()
        if body is None:
            self.close_connection = True
            return
        headers = tuple((str(name), str(value)) for name, value in self.headers.items())
        answer = self.server.api.respond(self.command, self.path, headers, body)
        if isinstance(answer, _answers.NoAnswer):
            self._end("close" if answer.how == "end" else answer.how)
            return
        time.sleep(answer.delay.before_seconds)
        self._send_head(answer)
        self._send_body(answer)
        self._end(answer.ends)

    def _read_body(self) -> bytes | None:
        """None: the client died while it sent."""
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            return body if len(body) == length else None
        chunks = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(chunks) if self.rfile.readline() else None

    do_POST = do_GET = do_PUT = do_DELETE = _serve  # noqa: N815 - the names http.server asks for

    def _send_head(self, answer: _answers.Answer) -> None:
        framing = "transfer-encoding: chunked" if answer.length is None else f"content-length: {answer.length}"
        lines = [f"HTTP/1.1 {answer.status} {_STATUSES.get(answer.status, '')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        self.wfile.write("\r\n".join([*lines, framing, "", ""]).encode("latin-1"))

    def _send_body(self, answer: _answers.Answer) -> None:
        chunked = answer.length is None
        for part in answer.schedule():
            if part is None:
                self._hold()
            elif isinstance(part, float):
                time.sleep(part)
            elif part:
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n" if chunked else part)
        if chunked and answer.ends == "end":
            self.wfile.write(b"0\r\n\r\n")

    def _hold(self) -> None:
        while self.server.api.held(_POLL_SECONDS):
            if self.server.closing.is_set():
                raise ConnectionAbortedError

    def _end(self, how: How) -> None:
        if how == "end":
            return
        self.close_connection = True
        if how == "reset":
            # Closed here, without the farewell that socketserver would send first: with nothing to linger for, the
            # system answers with a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.rfile.close()
            self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - as inherited
        """Say nothing: the calls are recorded."""
