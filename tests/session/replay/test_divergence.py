"""A program that was changed is told of the first difference: where, what, and what kind of change it was."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import session
from session.replay import ReplayDivergedError, Replayer
from session.testing import Failure, Reply, ScriptedApi, calls, says
from tests.session.recording.kit import ASK, state_of, types_of, user
from tests.session.replay.kit import diverges, record, replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from anthropic import Anthropic

TOOLS: Any = [
    {"name": "look", "description": "Look.", "input_schema": {"type": "object", "properties": {"at": {}}}},
]
SCRIPT = [
    Reply(content=[says("Let me see."), calls("look", {"at": 1}, "toolu_1"), calls("look", {"at": 2}, "toolu_2")]),
    "A title.",
    "It is fine.",
    "Good bye.",
]


class Plan:
    """What a program does; a planted change alters it."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {**ASK, "system": "Be brief.", "tools": TOOLS}
        self.first: list[Any] = [user("Look at 1 and 2")]
        self.title: list[Any] = [user("A title, please")]
        self.results: list[Any] = [
            {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": f"thing {number}"} for number in (1, 2)
        ]
        self.last: list[Any] = [user("Thanks")]
        self.edit: Callable[[list[Any]], None] = lambda _history: None
        self.steps = ["look", "title", "answer", "last"]

    def __call__(self, client: Anthropic) -> list[str]:
        seen, history = [], [*self.first]

        def ask(messages: list[Any], **options: Any) -> Any:
            answer = client.messages.create(messages=messages, **options)
            seen.append(answer.to_json())
            return answer

        for step in self.steps:
            match step:
                case "look":
                    history.append({"role": "assistant", "content": ask(history, **self.options).content})
                case "title":
                    ask(self.title, **ASK)
                case "answer":
                    history.append({"role": "user", "content": self.results})
                    history.append({"role": "assistant", "content": ask(history, **self.options).content})
                case _:
                    history += self.last
                    self.edit(history)
                    ask(history, **self.options)
        return seen


def change(plan: Plan, name: str) -> None:  # noqa: C901, PLR0912 - one case per planted change
    """Plant it."""
    match name:
        case "model":
            plan.options["model"] = "claude-haiku-4-5"
        case "system":
            plan.options["system"] = "Be very brief."
        case "tool schema":
            plan.options["tools"] = copy.deepcopy(TOOLS)
            plan.options["tools"][0]["input_schema"]["properties"]["at"] = {"type": "integer"}
        case "edited message":
            plan.edit = lambda history: history[0].update(content="Look at 1 and 3")
        case "dropped message":
            plan.edit = lambda history: history.__delitem__(slice(0, 1))
        case "added message":
            plan.edit = lambda history: history.insert(4, user("By the way"))
        case "extra call":
            plan.steps.append("last")
            plan.last = [user("Thanks")]
        case "extra call between":
            plan.steps.insert(2, "title")
        case "missing call":
            plan.steps.remove("title")
        case "missing last call":
            plan.steps.remove("last")
        case "changed tool result":
            plan.results[1]["content"] = "thing 3"
        case "parameter":
            plan.options["max_tokens"] = 300
        case "reordered parallel calls":
            plan.results.reverse()
        case _:
            plan.steps = ["title", *(step for step in plan.steps if step != "title")]


class Expected(NamedTuple):
    """*request* says which of the recorded requests, in order, is the event; None: the head of the session."""

    name: str
    request: int | None
    cause: str
    pointer: str = ""
    before: str = ""
    after: str = ""


CHANGES = [
    Expected("model", 0, "model", "/model", '"claude-sonnet-5-5"', '"claude-haiku-4-5"'),
    Expected("system", 0, "system", "/system", '"Be brief."', '"Be very brief."'),
    Expected("tool schema", 0, "tools", "/tools/0/input_schema/properties/at/type", "", '"integer"'),
    Expected("edited message", 3, "message edited", "/messages/0/content", '"Look at 1 and 2"', '"Look at 1 and 3"'),
    Expected("dropped message", 3, "message missing", "/messages/0", '{"role":"user","content":"Look at 1 and 2"}', ""),
    Expected("added message", 3, "message added", "/messages/4", "", '{"role":"user","content":"By the way"}'),
    Expected("extra call", None, "extra call", "/messages/5", "", '{"role":"user","content":"Thanks"}'),
    Expected(
        "extra call between", None, "extra call", "/messages/0", "", '{"role":"user","content":"A title, please"}'
    ),
    Expected("missing call", 1, "missing call", "", "", ""),
    Expected("missing last call", 3, "missing call", "", "", ""),
    Expected(
        "changed tool result", 2, "tool result changed", "/messages/2/content/1/content", '"thing 2"', '"thing 3"'
    ),
    Expected("parameter", 0, "parameter", "/max_tokens", "200", "300"),
    Expected(
        "reordered parallel calls", 2, "order", "/messages/2/content", '["toolu_1","toolu_2"]', '["toolu_2","toolu_1"]'
    ),
    Expected("reordered calls", 0, "order", "", "before TITLE", "after TITLE"),
]


@pytest.fixture(scope="module")
def recording() -> Any:
    return record(Plan(), SCRIPT)


def requests_of(storage: Any, root: str) -> list[str]:
    """The places of the recorded requests, in order."""
    main, title = ([f"{each}@{at + 1}" for at, kind in enumerate(types_of(storage, each)) if kind == "request_sent"]
                   for each in (root, f"{root}.2"))  # fmt: skip
    return [main[0], *title, *main[1:]]


def test_a_program_that_was_not_changed_does_not_diverge(recording: Any) -> None:
    storage, root, recorded = recording
    assert replay(Plan(), storage, root) == recorded
    marked = Plan()
    marked.options["system"] = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    assert replay(marked, storage, root) == recorded, "cache_control and the form of a text are no difference"


@pytest.mark.parametrize("expected", CHANGES, ids=[expected.name for expected in CHANGES])
def test_a_planted_change_is_reported_at_its_event_with_its_cause(recording: Any, expected: Expected) -> None:
    storage, root, _ = recording
    changed = Plan()
    change(changed, expected.name)
    error = diverges(changed, storage, root)
    places = requests_of(storage, root)
    if expected.request is not None:
        assert f"{error.session_id}@{error.version}" == places[expected.request]
    else:
        session_id = f"{root}.2" if expected.name == "extra call between" else root
        assert (error.session_id, error.version) == (session_id, state_of(storage, session_id).version)
    assert (error.cause, error.pointer) == (expected.cause, expected.pointer)
    assert (error.before, error.after) == (
        expected.before.replace("TITLE", places[1]),
        expected.after.replace("TITLE", places[1]),
    )
    report = str(error)
    assert report.splitlines()[0].startswith(f"replay diverged at {error.session_id}@{error.version}: ")
    assert report.splitlines()[-1].strip() == "nothing was sent"
    if not expected.name.startswith("missing"):
        assert f"{__file__}:" in error.frame
        assert error.frame in report
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.divergence) == (report, error.divergence)


def test_parallel_calls_may_come_in_any_order(recording: Any) -> None:
    del recording
    together = threading.Barrier(2, timeout=20)

    def program(client: Anthropic, order: str = "ab") -> dict[str, str]:
        first = client.messages.create(messages=[user("Begin")], **ASK)
        history: list[Any] = [user("Begin"), {"role": "assistant", "content": first.content}]
        seen: dict[str, str] = {}

        def ask(name: str) -> None:
            seen[name] = client.messages.create(messages=[*history, user(name)], **ASK).to_json()

        threads = [threading.Thread(target=ask, args=(name,)) for name in order]
        for thread in threads:
            thread.start()
            if order == "ba":
                thread.join()
        for thread in threads:
            thread.join()
        return seen

    def script(_body: Any, number: int) -> str:
        if number > 1:
            together.wait()
        return f"answer {number}"

    storage, root, recorded = record(program, script)
    assert replay(lambda client: program(client, "ba"), storage, root) == recorded


def test_a_call_that_waited_for_its_retry_was_not_overtaken() -> None:
    failed, answered = threading.Event(), threading.Event()

    def program(client: Anthropic, *, side_by_side: bool = True) -> list[str]:
        def ask(name: str) -> str:
            if name == "second" and side_by_side:
                failed.wait(20)
            text: str = client.messages.create(messages=[user(name)], **ASK).to_json()
            if name == "second":
                answered.set()
            return text

        with ThreadPoolExecutor(2 if side_by_side else 1) as pool:
            return list(pool.map(ask, ("first", "second")))

    def script(body: Any, _number: int) -> Any:
        if body["messages"][0]["content"] == "first":
            if not failed.is_set():
                failed.set()
                return Failure(status=429)
            answered.wait(20)
        return "Well."

    storage, root, recorded = record(program, script)
    assert replay(lambda client: program(client, side_by_side=False), storage, root) == recorded


def test_a_divergence_that_the_program_swallows_is_raised_in_the_end_and_stays(recording: Any) -> None:
    storage, root, _ = recording
    plan = Plan()
    plan.options["system"] = "Other."
    errors: list[str] = []

    def stubborn(client: Anthropic) -> None:
        for _ in range(2):
            try:
                plan(client)
            except ReplayDivergedError as error:
                errors.append(str(error))

    raised = diverges(stubborn, storage, root)
    assert errors == [str(raised)] * 2


def test_a_report_shows_where_long_texts_part_and_controls_no_terminal() -> None:
    def program(client: Anthropic, text: str = "x" * 500 + "\x1b[2J\u202eold") -> None:
        client.messages.create(messages=[user(text)], **ASK)

    storage, root, _ = record(program, ["Well."])
    report = str(diverges(lambda client: program(client, "x" * 500 + "\x1b[2J\u202enew"), storage, root))
    assert report.isascii()
    assert "\x1b" not in report
    assert r"\u202eold" in report
    assert r"\u202enew" in report
    assert max(map(len, report.splitlines())) < 300


# --- going on live ----------------------------------------------------------------------------------------------------


def test_a_divergence_goes_on_live_in_a_fork_of_the_recording(recording: Any, caplog: pytest.LogCaptureFixture) -> None:
    storage, root, recorded = recording
    before = {each: state_of(storage, each).version for each in (root, f"{root}.2")}
    api = ScriptedApi(["Good bye, live.", "Else."])
    changed = Plan()
    changed.last = [user("Thanks a lot")]
    with Replayer(storage, root, on_divergence="live") as replayer:
        with api.client(middleware=[replayer]) as client:
            seen = changed(client)
        assert replayer.divergence is not None
        assert replayer.divergence.cause == "message edited"
        assert replayer.live is not None
        (fork,) = replayer.live.sessions
    assert seen[:3] == recorded[:3]
    assert "Good bye, live." in seen[3]
    assert f"going on live: replay diverged at {root}@" in caplog.text
    assert "nothing was sent" not in caplog.text + str(replayer.divergence)
    assert len(api.calls) == 1
    assert {each: state_of(storage, each).version for each in before} == before, "the recording was not touched"
    state = state_of(storage, fork)
    assert (state.parent_id, state.forked_at) == (root, replayer.divergence.fork_at)
    assert [message["role"] for message in state.messages] == ["user", "assistant"] * 3
    assert state.messages[4]["content"] == "Thanks a lot"
    assert replay(changed, storage, fork) == seen, "the fork is a recording of the whole program"


def test_what_a_live_replay_has_behind_the_recording_is_a_fork_too(recording: Any) -> None:
    storage, root, _ = recording
    version = state_of(storage, root).version
    longer = Plan()
    change(longer, "extra call")
    api = ScriptedApi(["More."])
    with Replayer(storage, root, on_divergence="live") as replayer, api.client(middleware=[replayer]) as client:
        longer(client)
        assert replayer.live is not None
    assert state_of(storage, root).version == version
    assert json.loads(longer_last := api.calls[0].body)["messages"][-1]["content"] == "Thanks", longer_last


def test_the_errors_are_loaded_when_they_are_asked_for() -> None:
    assert session.ReplayDivergedError is ReplayDivergedError
    assert session.Replayer is Replayer
