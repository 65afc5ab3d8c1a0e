"""In a real browser nothing of what was said runs or loads. The same detector catches pages that do.

Needs Debian's `chromium`.
"""

from __future__ import annotations

import http.server
import re
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from session.pages import html_page
from tests.session.pages.safety import MARKER, SCRIPT, payloads, unpoliced
from tests.session.pages.test_html import store, write_hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=4000",
    "--dump-dom",
]


class Listener(http.server.ThreadingHTTPServer):
    """A server on the loopback interface that notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Note)
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Note(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Listener)
        self.server.asked.append(self.path)
        self.send_response(204)
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def browsed(page: str, tmp_path: Path) -> str:
    """The page as Chromium has it after its scripts ran."""
    file = tmp_path / "page.html"
    file.write_bytes(page.encode())
    arguments = ["chromium", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    done = subprocess.run(arguments, capture_output=True, check=True, timeout=120)
    return done.stdout.decode()


def title_of(document: str) -> str:
    found = re.search(r"<title[^>]*>(.*?)</title>", document, re.DOTALL)
    return found[1] if found else ""


def page_with_everything(tmp_path: Path, beacon: str) -> str:
    with store(tmp_path) as storage:
        pages = []
        for place, payload in enumerate(payloads(beacon)):
            write_hostile(storage, f"s{place}", payload)
            pages.append("".join(html_page(storage, f"s{place}")))
    # One document of all of them: what stands between the body tags of each, behind the head of the first.
    bodies = [page.partition("<body>")[2].partition("</body>")[0] for page in pages]
    titles = "".join(page.partition("<title>")[2].partition("</title>")[0] for page in pages)
    head = pages[0].partition("<body>")[0]
    start, end = head.index("<title>") + len("<title>"), head.index("</title>")
    return head[:start] + titles + head[end:] + "<body>" + "".join(bodies) + "</body></html>"


@pytest.mark.parametrize("policed", [True, False])
def test_of_every_payload_in_every_field_nothing_runs_and_nothing_loads(
    tmp_path: Path, listener: Listener, *, policed: bool
) -> None:
    page = page_with_everything(tmp_path, listener.address)
    document = browsed(page if policed else unpoliced(page), tmp_path)
    assert document.count("<article") > 400, "the browser has read all of it"
    assert "<script" in title_of(document).replace("&lt;", "<"), "the payloads are in the title, as text"
    assert title_of(document) != MARKER
    assert listener.asked == []


@pytest.mark.parametrize(
    "payload", [f"<script>{SCRIPT}</script>", f"<img src=x onerror={SCRIPT}>", f"<svg onload={SCRIPT}>"]
)
def test_the_detector_catches_a_page_that_does_not_escape(tmp_path: Path, listener: Listener, payload: str) -> None:
    page = page_with_everything(tmp_path, listener.address)
    leaking = page.replace("<header>", f"<header>{payload}<img src={listener.address}/loaded>", 1)
    assert title_of(browsed(unpoliced(leaking), tmp_path)) == MARKER
    assert listener.asked == ["/loaded"]


def test_the_policy_stops_what_would_get_through(tmp_path: Path, listener: Listener) -> None:
    page = page_with_everything(tmp_path, listener.address)
    leaking = page.replace("<header>", "<header>" + "".join(payloads(listener.address)[:30]), 1)
    assert title_of(browsed(leaking, tmp_path)) != MARKER
    assert listener.asked == []
