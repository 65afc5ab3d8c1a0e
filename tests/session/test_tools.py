"""Every call of a tool has a result that the API takes, whatever the tool, its input or its result is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import math
import os
import threading
from typing import TYPE_CHECKING, Any

import anthropic
import pytest
from anthropic.lib.tools import ToolError
from hypothesis import given
from hypothesis import strategies as st

from session import _tool_results, tools
from session.response import INVALID_JSON
from session.testing import check_request
from session.tools import Toolbox, ToolOutcome, builtin_tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


class Own:
    """A tool of the test's own: what it gives back is what `answer` does."""

    def __init__(self, answer: Callable[[], Any], name: str = "f") -> None:
        self.name = name
        self._answer = answer

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "input_schema": {"type": "object"}}

    def call(self, input: object) -> Any:  # noqa: A002, ARG002
        return self._answer()


class OwnAsync(Own):
    async def call(self, input: object) -> Any:  # noqa: A002, ARG002
        result = self._answer()
        return await result if asyncio.iscoroutine(result) else result


def run(toolbox: Toolbox, name: str = "f", input_json: bytes = b"{}", **options: Any) -> ToolOutcome:
    async def scenario() -> ToolOutcome:
        try:
            return await toolbox.run("toolu_1", name, input_json, **options)
        finally:
            await toolbox.aclose()

    outcome = asyncio.run(scenario())
    assert_the_api_takes(outcome)
    return outcome


def assert_the_api_takes(outcome: ToolOutcome) -> None:
    block = json.loads(outcome.result_block, parse_constant=_refuse)
    outcome.result_block.decode()
    assert block["type"] == "tool_result"
    assert block.get("is_error", False) is outcome.is_error
    if outcome.is_error:  # no error is without a text, and none holds anything else
        texts = block["content"] if isinstance(block["content"], list) else [{"type": "text", "text": block["content"]}]
        assert all(text["type"] == "text" and text["text"].strip() for text in texts)
    call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    messages = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [block]},
    ]
    assert check_request({"model": "claude-sonnet-5-5", "max_tokens": 9, "messages": messages}) is None


def _refuse(constant: str) -> None:
    raise AssertionError(constant)


def content(outcome: ToolOutcome) -> Any:
    return json.loads(outcome.result_block).get("content")


@anthropic.beta_tool
def add(a: int, b: int = 1) -> str:
    """Add two numbers."""
    return str(a + b)


@anthropic.beta_async_tool
async def shout(text: str) -> str:
    """Say it louder."""
    await asyncio.sleep(0)
    return text.upper()


# --- definitions ------------------------------------------------------------------------------------------------------


def test_definitions_are_encoded_once_and_in_order() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 1.10}
    toolbox = Toolbox([shout, search, add])
    assert json.loads(toolbox.definitions()) == [shout.to_dict(), search, add.to_dict()]
    assert b'"max_uses":1.1' in toolbox.definitions()
    assert toolbox.definitions() is toolbox.definitions()
    assert Toolbox([shout, search, add]).definitions() == toolbox.definitions()


def test_no_tools_have_no_definitions() -> None:
    assert Toolbox().definitions() == b""


def test_builtin_definitions_are_the_same_anywhere(tmp_path: Path) -> None:
    one, other = Toolbox(builtin_tools(tmp_path)), Toolbox(builtin_tools("/"))
    assert one.definitions() == other.definitions()
    assert [tool["name"] for tool in json.loads(one.definitions())] == ["bash", "read", "write", "edit", "glob", "grep"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([lambda: "x"], TypeError),
        (["bash"], TypeError),
        ([add, add], ValueError),
        ([add, {"name": "add", "input_schema": {"type": "object"}}], ValueError),
        ([{"name": "f", "input_schema": object()}], TypeError),
    ],
)
def test_what_is_no_list_of_tools_is_refused(wrong: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Toolbox(wrong)


def test_a_builtin_tool_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no built-in tool rm"):
        builtin_tools(only=["read", "rm"])


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_sync_tool_runs_in_a_thread_with_the_callers_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("here")
    outcome = run(Toolbox([Own(lambda: f"{variable.get()} {threading.current_thread() is threading.main_thread()}")]))
    assert content(outcome) == "here False"
    assert outcome.status == "returned"
    assert not outcome.is_error


def test_an_async_tool_runs_on_the_loop() -> None:
    assert content(run(Toolbox([shout]), "shout", b'{"text":"hi"}')) == "HI"


def test_tools_run_side_by_side() -> None:
    async def scenario() -> list[ToolOutcome]:
        meeting = threading.Barrier(3)  # is passed only if all three are there
        toolbox = Toolbox([Own(lambda: str(meeting.wait(timeout=30) >= 0))])
        return await asyncio.gather(*(toolbox.run(f"toolu_{n}", "f", b"{}") for n in range(3)))

    assert [content(outcome) for outcome in asyncio.run(scenario())] == ["True"] * 3


def test_the_input_is_validated_and_the_model_is_told_what_is_wrong() -> None:
    assert content(run(Toolbox([add]), "add", b'{"a": 1}')) == "2"
    outcome = run(Toolbox([add]), "add", b'{"a": "x"}')
    assert outcome.is_error
    assert "Invalid arguments for function add" in content(outcome)
    assert "valid integer" in content(outcome)


@pytest.mark.parametrize("raw", [b"[1]", b'"x"', b"null", b"1.10", b"{", b"", b"\xff", b'{"INVALID_JSON":"{"}'])
def test_an_input_that_is_no_object_runs_nothing(raw: bytes) -> None:
    ran: list[int] = []
    outcome = run(Toolbox([Own(lambda: ran.append(1))]), input_json=raw)
    assert (outcome.status, outcome.is_error, ran) == ("not_run", True, [])
    assert "Call" in content(outcome)
    assert INVALID_JSON not in content(outcome)


def test_a_tool_that_does_not_exist_is_named_with_those_that_do() -> None:
    outcome = run(Toolbox([add, shout, {"name": "search", "type": "web_search_20250305"}]), "search")
    assert (outcome.status, outcome.is_error) == ("not_run", True)
    assert content(outcome) == "There is no tool 'search' here. There are: add, shout."


def test_a_tool_use_id_is_escaped() -> None:
    outcome = asyncio.run(Toolbox().run('a"\ud800', "f", b"{}"))
    assert json.loads(outcome.result_block)["tool_use_id"] == 'a"\ud800'


# --- failures ---------------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class HostileBlocks:
    def __iter__(self) -> Iterator[Any]:
        raise ValueError("not today")


class HostileError(ToolError):
    def __init__(self) -> None:
        super().__init__("never read")
        self.content = HostileBlocks()


@pytest.mark.parametrize("kind", [Own, OwnAsync])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such city"), "ValueError: no such city"),
        (ToolError("plain words"), "plain words"),
        (ToolError([{"type": "text", "text": "a"}, PNG, {"type": "text", "text": "b"}]), "a\n[image left out]\nb"),  # type: ignore[list-item]
        (ToolError(""), "The tool failed without saying why."),
        (ToolError("\ud800"), "\ufffd"),
        (SystemExit(1), "SystemExit"),
        (StopIteration(), "StopIteration"),
        (TimeoutError(), "TimeoutError"),
        (asyncio.CancelledError(), "ancelled"),
        (GeneratorExit(), "GeneratorExit"),
        (RudeError(), "RudeError"),
        (HostileError(), "HostileError"),
        (ExceptionGroup("many", [ValueError("one")]), "many"),
        (ValueError("x" * 100_000), "ValueError: xxx"),
    ],
)
def test_a_tool_that_raises_has_a_result_that_says_so(kind: type[Own], error: BaseException, text: str) -> None:
    outcome = run(Toolbox([kind(raising(error))]))
    assert (outcome.status, outcome.is_error) == ("returned", True)
    assert text in content(outcome)
    assert len(content(outcome)) < 5_000


def test_an_async_tool_that_never_returns_is_given_up_and_cancelled() -> None:
    ended: list[str] = []

    async def wait() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        return "never"

    outcome = run(Toolbox([OwnAsync(wait)], timeout_seconds=0.01))
    assert outcome.is_error
    assert "did not end within 0.01 seconds" in content(outcome)
    assert ended == ["cancelled"]


def test_a_sync_tool_that_never_returns_is_given_up() -> None:
    release = threading.Event()
    outcome = run(Toolbox([Own(release.wait)], timeout_seconds=0.01))
    release.set()
    assert "did not end within" in content(outcome)


def test_an_async_tool_that_will_not_be_cancelled_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "_GRACE_SECONDS", 0.01)

    async def scenario() -> ToolOutcome:
        release = asyncio.Event()

        async def stubborn() -> str:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()
            return "late"

        outcome = await Toolbox([OwnAsync(stubborn)], timeout_seconds=0.01).run("toolu_1", "f", b"{}")
        release.set()
        return outcome

    assert "given up" in content(asyncio.run(scenario()))


@pytest.mark.parametrize("kind", [Own, OwnAsync])
def test_a_cancelled_run_is_cancelled_and_its_tool_with_it(kind: type[Own]) -> None:
    async def scenario() -> list[str]:
        loop, ended = asyncio.get_running_loop(), []
        begun, release = asyncio.Event(), threading.Event()

        def blocks() -> str:
            loop.call_soon_threadsafe(begun.set)
            release.wait(30)
            return "late"

        async def waits() -> str:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append("seen off")
            return "never"

        toolbox = Toolbox([kind(waits if kind is OwnAsync else blocks)])
        running = asyncio.create_task(toolbox.run("toolu_1", "f", b"{}"))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        release.set()
        return list(ended)

    assert asyncio.run(scenario()) == (["seen off"] if kind is OwnAsync else [])


def test_a_thread_that_outlives_its_loop_disturbs_nobody() -> None:
    release, done = threading.Event(), threading.Event()

    def blocks() -> str:
        release.wait(30)
        done.set()
        return "late"

    run(Toolbox([Own(blocks)], timeout_seconds=0.01))
    release.set()
    assert done.wait(30)


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("", ""),
        ("text", "text"),
        ("a\ud800b", "a\ufffdb"),
        (None, None),
        ([{"type": "text", "text": "a"}, PNG], [{"type": "text", "text": "a"}, PNG]),
        ([{"type": "text", "text": ""}, PNG], [PNG]),
        ([{"type": "text", "text": "a\udfff"}], [{"type": "text", "text": "a\ufffd"}]),
        (({"type": "x_future", "n": n} for n in [1.5]), [{"type": "x_future", "n": 1.5}]),
        ({"a": [1, "é"]}, '{"a":[1,"é"]}'),
        ([1, "a"], '[1,"a"]'),
        ([], "[]"),
        (7, "7"),
        (True, "true"),
        (anthropic.types.TextBlock(type="text", text="hi"), '{"text":"hi","type":"text"}'),
    ],
)
def test_a_result_is_text_blocks_or_the_json_of_it(result: Any, expected: Any) -> None:
    outcome = run(Toolbox([Own(lambda: result)]))
    assert content(outcome) == expected
    assert not outcome.is_error


@pytest.mark.parametrize(
    "result", [b"bytes", bytearray(b"x"), object(), {"a": object()}, [b"x"], {"x": math.nan}, [PNG, {1, 2}]]
)
def test_a_result_that_is_neither_is_an_error_that_says_so(result: Any) -> None:
    outcome = run(Toolbox([Own(lambda: result)]))
    assert outcome.is_error
    assert "he tool returned" in content(outcome)


def test_a_result_that_contains_itself_is_an_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "the tool returned what is no JSON" in content(run(Toolbox([Own(lambda: endless)])))


@pytest.mark.parametrize("wrap", [str, lambda text: [{"type": "text", "text": text}], lambda text: {"a": text}])
def test_a_result_of_ten_megabytes_is_cut_and_says_so(wrap: Callable[[str], Any]) -> None:
    outcome = run(Toolbox([Own(lambda: wrap("é" * 5_000_000))]))
    shown = content(outcome)
    text = shown if isinstance(shown, str) else shown[0]["text"]
    assert outcome.is_error
    assert len(outcome.result_block) < _tool_results.MAX_TEXT_BYTES + 300
    assert "Cut off here: the tool returned 10,000," in text
    assert text.startswith(("éé", '{"a":"é'))


def test_images_survive_beside_a_text_that_is_cut() -> None:
    outcome = run(Toolbox([Own(lambda: [PNG, {"type": "text", "text": "x" * 2_000_000}])]))
    text, image = content(outcome)
    assert "Cut off here" in text["text"]
    assert image == PNG
    assert not outcome.is_error


def test_images_beyond_what_a_request_holds_are_an_error() -> None:
    huge = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 25_000_000}}
    outcome = run(Toolbox([Own(lambda: [huge])]))
    assert outcome.is_error
    assert "a result holds 24,000,000" in content(outcome)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(PNG),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(), inner, max_size=3)
            | inner.map(lambda value: {"type": "text", "text": value})
        ),
        max_leaves=6,
    )
)
def test_whatever_a_tool_returns_the_block_is_json_that_a_request_can_carry(result: Any) -> None:
    outcome = asyncio.run(Toolbox([OwnAsync(lambda: result)]).run("toolu_1", "f", b"{}"))
    block = json.loads(outcome.result_block.decode(), parse_constant=_refuse)
    assert "\\ud" not in outcome.result_block.decode().lower().replace("\\\\", "")
    assert set(block) <= {"type", "tool_use_id", "content", "is_error"}


# --- permission -------------------------------------------------------------------------------------------------------


def test_a_tool_is_asked_for_with_its_name_and_input_and_then_runs() -> None:
    asked: list[Any] = []

    async def can_use_tool(name: str, given: dict[str, Any]) -> bool:
        asked.append((name, dict(given)))
        given["a"] = 99  # its own copy
        return True

    assert content(run(Toolbox([add], can_use_tool), "add", b'{"a":1}')) == "2"
    assert asked == [("add", {"a": 1})]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("not today", "not today"),
        ("", "not allowed"),
        (False, "not allowed"),
        (None, "not allowed"),
        (1, "not allowed"),
    ],
)
def test_anything_but_true_is_a_refusal(answer: Any, text: str) -> None:
    ran: list[int] = []

    async def can_use_tool(_name: str, _given: dict[str, Any]) -> Any:
        return answer

    outcome = run(Toolbox([Own(lambda: ran.append(1))], can_use_tool), starting=never)
    assert (outcome.status, outcome.is_error, ran) == ("refused", True, [])
    assert text in content(outcome)
    assert text in outcome.reason


async def never(_asked: bool) -> None:
    raise AssertionError("it does not start")


def test_what_permission_raises_is_the_programs_own() -> None:
    async def can_use_tool(_name: str, _given: dict[str, Any]) -> bool:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        run(Toolbox([Own(lambda: "x")], can_use_tool))


def test_nobody_is_asked_for_a_tool_that_cannot_run() -> None:
    async def can_use_tool(_name: str, _given: dict[str, Any]) -> bool:
        raise AssertionError("asked")

    assert run(Toolbox([add], can_use_tool), "nothing", starting=never).status == "not_run"
    assert run(Toolbox([add], can_use_tool), "add", b"[]", starting=never).status == "not_run"


def test_a_tool_runs_only_once_its_start_is_recorded() -> None:
    order: list[str] = []

    async def starting(asked: bool) -> None:
        await asyncio.sleep(0)
        order.append(f"started, asked: {asked}")

    async def allow(_name: str, _given: dict[str, Any]) -> bool:
        order.append("asked")
        return True

    run(Toolbox([Own(lambda: order.append("ran"))], allow), starting=starting)
    run(Toolbox([Own(lambda: order.append("ran"))]), starting=starting)
    assert order == ["asked", "started, asked: True", "ran", "started, asked: False", "ran"]
    with pytest.raises(AssertionError, match="it does not start"):
        run(Toolbox([Own(lambda: order.append("ran again"))]), starting=never)
    assert order[-1] == "ran"


# --- what tools hold --------------------------------------------------------------------------------------------------


def test_close_hooks_are_awaited_once_and_only_by_the_last_user() -> None:
    events: list[str] = []

    class Held(OwnAsync):
        async def aclose(self) -> None:
            await asyncio.sleep(0)
            events.append(f"closed {self.name}")

    class Bad(Held):
        async def aclose(self) -> None:
            raise RuntimeError("while closing")

    @contextlib.asynccontextmanager
    async def managed() -> AsyncIterator[Callable[[], Any]]:
        async def answer() -> str:
            return "inside"

        yield answer
        events.append("left")

    @contextlib.contextmanager
    def managed_sync() -> Iterator[Callable[[], Any]]:
        yield lambda: "inside"
        events.append("left sync")

    schema: Any = {"type": "object", "properties": {}}

    async def scenario() -> None:
        held: Any = managed
        held_sync: Any = managed_sync
        toolbox = Toolbox(
            [
                Held(lambda: "", "one"),
                Bad(lambda: "", "bad"),
                anthropic.beta_async_tool(name="two", input_schema=schema)(held),
                anthropic.beta_tool(name="three", input_schema=schema)(held_sync),
                Held(lambda: "", "four"),
            ]
        )
        assert toolbox.retain() is toolbox
        assert content(await toolbox.run("t", "two", b"{}")) == "inside"
        assert content(await toolbox.run("t", "three", b"{}")) == "inside"
        await toolbox.aclose()
        assert events == []
        await toolbox.aclose()
        await toolbox.aclose()

    asyncio.run(scenario())
    assert sorted(events) == ["closed four", "closed one", "left", "left sync"]


# --- built-in tools ---------------------------------------------------------------------------------------------------


def test_the_builtin_tools_work_in_their_directory(tmp_path: Path) -> None:
    async def scenario() -> None:
        toolbox = Toolbox(builtin_tools(tmp_path))

        async def say(name: str, **given: Any) -> Any:
            outcome = await toolbox.run("toolu_1", name, json.dumps(given).encode())
            assert_the_api_takes(outcome)
            return content(outcome)

        await say("write", file_path="a.txt", content="one\ntwo\n")
        assert await say("read", file_path="a.txt") == "one\ntwo\n"
        await say("edit", file_path="a.txt", old_string="two", new_string="three")
        assert "a.txt" in await say("glob", pattern="*.txt")
        assert "three" in await say("grep", pattern="thr..")
        assert await say("bash", command="cat a.txt") == "one\nthree"
        assert "outside" in await say("read", file_path="/etc/hostname")
        assert await say("bash", command="false") == "The tool failed without saying why."
        await toolbox.aclose()

    asyncio.run(scenario())
    assert (tmp_path / "a.txt").read_text() == "one\nthree\n"


def test_only_the_builtin_tools_that_are_named_are_there(tmp_path: Path) -> None:
    assert [tool.name for tool in builtin_tools(tmp_path, only=["grep", "read"])] == ["grep", "read"]


def test_the_shell_is_ended_with_its_toolbox_and_keeps_its_state_until_then(tmp_path: Path) -> None:
    async def scenario() -> int:
        toolbox = Toolbox(builtin_tools(tmp_path, only=["bash"]))
        pid = int(content(await toolbox.run("t", "bash", b'{"command":"X=kept; echo $$"}')))
        assert content(await toolbox.run("t", "bash", b'{"command":"echo $X"}')) == "kept"
        os.kill(pid, 0)
        await toolbox.aclose()
        return pid

    pid = asyncio.run(scenario())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_commands_of_one_shell_wait_for_each_other(tmp_path: Path) -> None:
    async def scenario() -> list[Any]:
        toolbox = Toolbox(builtin_tools(tmp_path, only=["bash"]))
        commands = [json.dumps({"command": f"echo begin {n}; read x < /dev/null; echo end {n}"}) for n in range(5)]
        await toolbox.run("t", "bash", b'{"command":"echo the shell is there"}')
        outcomes = await asyncio.gather(*(toolbox.run("t", "bash", command.encode()) for command in commands))
        await toolbox.aclose()
        return [content(outcome) for outcome in outcomes]

    assert asyncio.run(scenario()) == [f"begin {n}\nend {n}" for n in range(5)]


def test_a_command_that_never_ends_is_ended_and_the_shell_can_be_restarted(tmp_path: Path) -> None:
    async def scenario() -> list[Any]:
        toolbox = Toolbox(builtin_tools(tmp_path, only=["bash"]), timeout_seconds=30)
        commands: list[dict[str, Any]] = [
            {"command": "tail -f /dev/null", "timeout_ms": 50},
            {"restart": True},
            {"command": "echo back"},
        ]
        outcomes = [await toolbox.run("t", "bash", json.dumps(command).encode()) for command in commands]
        await toolbox.aclose()
        return [content(outcome) for outcome in outcomes]

    first, _, last = asyncio.run(scenario())
    assert "timed out" in first
    assert last == "back"


def test_the_key_is_not_in_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    toolbox = Toolbox(builtin_tools(tmp_path, only=["bash"]))
    assert "sk-secret" not in content(run(toolbox, "bash", b'{"command":"env"}'))
