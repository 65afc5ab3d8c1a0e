from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, ClassVar

import pytest
from redis.asyncio import Redis

from session.errors import SessionFileError, StorageUnavailableError
from session.state import SessionState
from session.storage import RedisSessionStorage
from session.testing.storage_contract import SessionStorageContract, rich_state
from tests.session.storage_server import BINARY_VARIABLE, Server, running_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


class TestRedisSessionStorage(SessionStorageContract):
    server: Server
    prefixes: ClassVar[Iterator[int]] = itertools.count()

    @pytest.fixture(autouse=True)
    def _on_a_server(self, server: Server) -> None:
        self.server = server
        self.prefix = f"contract-{next(self.prefixes)}:"

    def open(self, path: Path) -> RedisSessionStorage:
        del path  # one place per test: its prefix
        return RedisSessionStorage(self.server.url, self.prefix)


def run(use: Callable[[RedisSessionStorage, Redis], Awaitable[None]], server: Server, prefix: str) -> None:
    async def main() -> None:
        async with RedisSessionStorage(server.url, prefix) as storage, Redis.from_url(server.url) as client:
            await use(storage, client)

    asyncio.run(main())


def test_a_session_is_a_string_under_the_prefix(server: Server) -> None:
    async def use(storage: RedisSessionStorage, client: Redis) -> None:
        await storage.save(rich_state("sess_a"))
        assert await client.type("own:sess_a") == b"string"
        assert await client.ttl("own:sess_a") == -1

    run(use, server, "own:")


def test_only_sessions_under_the_prefix_are_listed_whatever_it_looks_like(server: Server) -> None:
    async def use(storage: RedisSessionStorage, client: Redis) -> None:
        await storage.save(SessionState(id="sess_a"))
        for key in ("x[*?]sess_b", "xa:sess_c", r"x[*?]:a b", r"x[*?]:.hidden", "other"):
            await client.set(key, "{}")
        assert await storage.list() == ["sess_a"]

    run(use, server, "x[*?]:")


def test_a_list_longer_than_a_scan_step_has_each_id_once(server: Server) -> None:
    async def use(storage: RedisSessionStorage, client: Redis) -> None:
        await client.mset({f"many:s{number}": "{}" for number in range(3_000)})
        assert sorted(await storage.list()) == sorted(f"s{number}" for number in range(3_000))

    run(use, server, "many:")


def test_a_list_never_asks_for_all_keys_at_once(server: Server) -> None:
    async def use(storage: RedisSessionStorage, client: Redis) -> None:
        await client.config_resetstat()
        await storage.list()
        used = await client.info("commandstats")
        assert "cmdstat_scan" in used
        assert "cmdstat_keys" not in used

    run(use, server, "scan:")


def test_a_foreign_value_is_named_and_the_others_stay_readable(server: Server) -> None:
    async def use(storage: RedisSessionStorage, client: Redis) -> None:
        await storage.save(SessionState(id="good"))
        await client.set("foreign:torn", b'{"id":')
        await client.rpush("foreign:list", "a")
        for name in ("torn", "list"):
            with pytest.raises(SessionFileError, match=f"foreign:{name}"):
                await storage.load(name)
        assert await storage.load("good") is not None
        assert sorted(await storage.list()) == ["good", "list", "torn"]

    run(use, server, "foreign:")


def test_any_event_loop_may_use_it(server: Server) -> None:
    storage = RedisSessionStorage(server.url, "loops:")
    with asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(storage.save(SessionState(id="sess_a")))
        assert other.run(storage.list()) == ["sess_a"]
        assert one.run(storage.load("sess_a"))
        for loop in (one, other, one):
            loop.run(storage.aclose())
    with asyncio.Runner() as later:
        assert later.run(storage.load("sess_a"))
        later.run(storage.aclose())


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="redis://"):
        RedisSessionStorage("http://localhost")


def test_a_server_that_is_down_is_told_without_its_password(tmp_path: Path) -> None:
    with running_server(tmp_path) as running:
        address = running.url.removeprefix("redis://")
        running.stop()

    async def main() -> None:
        async with RedisSessionStorage(f"redis://user:secret@{address}") as storage:
            for attempt in (storage.save(SessionState(id="a")), storage.load("a"), storage.delete("a"), storage.list()):
                with pytest.raises(StorageUnavailableError) as caught:
                    await attempt
                assert address in str(caught.value)
                assert "secret" not in str(caught.value)
            assert "secret" not in repr(storage)

    asyncio.run(main())


async def check_given_up(storage: RedisSessionStorage, timeout_seconds: float) -> None:
    """Each method gives up after the timeout, and not only after one more for each of two retries."""
    for attempt in (storage.save(SessionState(id="a")), storage.load("a"), storage.delete("a"), storage.list()):
        began = time.monotonic()
        with pytest.raises(StorageUnavailableError):
            await attempt
        assert timeout_seconds * 0.9 <= time.monotonic() - began < timeout_seconds * 2.5


def test_a_server_that_says_nothing_is_given_up_after_the_timeout() -> None:
    async def main() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]
            async with RedisSessionStorage(f"redis://127.0.0.1:{port}", timeout_seconds=0.6) as storage:
                await check_given_up(storage, 0.6)

    asyncio.run(main())


def test_a_server_that_falls_silent_is_given_up_after_the_timeout() -> None:
    """It greets a new connection, and then says no more."""
    asked = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while command := await reader.read(1_000):
            if b"HELLO" in command:
                writer.write(b"%1\r\n+proto\r\n:3\r\n")
            elif b"CLIENT" in command:
                writer.write(b"+OK\r\n" * command.count(b"CLIENT"))
            else:
                asked.append(command)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, RedisSessionStorage(f"redis://127.0.0.1:{port}", timeout_seconds=0.6) as storage:
            await check_given_up(storage, 0.6)

    asyncio.run(main())
    assert len(asked) == 4


def test_a_server_without_room_keeps_what_it_has(server: Server) -> None:
    async def use(storage: RedisSessionStorage, client: Redis) -> None:
        await storage.save(SessionState(id="a", metadata={"n": 1}))
        await client.config_set("maxmemory", "1")
        with pytest.raises(StorageUnavailableError, match="memory"):
            await storage.save(SessionState(id="a", metadata={"n": 2}))
        await client.config_set("maxmemory", "0")
        loaded = await storage.load("a")
        assert loaded is not None
        assert loaded.metadata == {"n": 1}

    run(use, server, "full:")


def test_without_a_server_binary_these_tests_fail_and_say_what_to_install() -> None:
    script = "from unittest import mock\nfrom tests.session import storage_server as s\n"
    script += "with mock.patch.object(s, '_bundled', lambda: None): s.find_binary()"
    environment = {key: value for key, value in os.environ.items() if key != BINARY_VARIABLE} | {"PATH": ""}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "install the test extra" in ended.stderr
