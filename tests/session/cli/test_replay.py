"""`refold replay` and `refold debug`, in process and through a pipe."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pexpect  # type: ignore[import-untyped]  # it ships no types
import pytest
from anthropic import beta_tool

from session.cli.about import schema_of
from session.fold import Fold
from session.recording import Recorder
from session.state import SessionState
from session.storage.blocking import BlockingEventSessionStorage
from session.testing import Cut, Failure, Reply, ScriptedApi, calls, says
from tests.session.cli.cli_kit import Cli, seed_hostile

if TYPE_CHECKING:
    from pathlib import Path

ASK: dict[str, Any] = {"model": "claude-sonnet-5-5", "max_tokens": 200, "system": "Be brief."}
HOSTILE = "text \x1b[2J\u202e\n\tend"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run "agent": a stream, a tool, a failed attempt and its retry, a stream that is cut; a title beside it."""
    path = tmp_path_factory.mktemp("recorded") / "store"
    call = Reply(content=[says("Let me see."), calls("look", {}, "toolu_1")])
    api = ScriptedApi(
        [call, "A title.", Failure(status=529), "Fine.", Reply(content="Cut.", cut=Cut(after_events=3, how="reset"))]
    )
    with Recorder(path, session="agent") as recorder, api.client(middleware=[recorder], max_retries=1) as client:
        history: list[Any] = [{"role": "user", "content": HOSTILE}]
        with client.messages.stream(messages=history, **ASK) as stream:
            history.append({"role": "assistant", "content": stream.get_final_message().content})
        client.messages.create(messages=[{"role": "user", "content": "A title"}], **ASK)
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "things"}
        history.append({"role": "user", "content": [result]})
        answer = client.messages.create(messages=history, **ASK)
        history += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": "Go on"}]
        with pytest.raises(Exception, match="reset"):
            list(client.messages.create(messages=history, stream=True, **ASK))
    return path


@pytest.fixture
def cli(recorded: Path) -> Cli:
    return Cli(recorded)


def valid(command: str, out: str) -> list[dict[str, Any]]:
    assert out.isascii()
    lines = [json.loads(line) for line in out.splitlines()]
    for line in lines:
        jsonschema.validate(line, schema_of(command))
    return lines


# --- replay -----------------------------------------------------------------------------------------------------------


def test_a_replay_is_listed_call_for_call(cli: Cli) -> None:
    rows = cli.ok("replay", "agent").rows
    assert [(row[0].partition("@")[0], *row[1:3], *row[4:8]) for row in rows] == [
        ("agent", "1", "1", "1", "stream", "200", "tool_use"),
        ("agent.2", "1", "1", "1", "whole", "200", "end_turn"),
        ("agent", "2", "1", "3", "whole", "529", "error"),
        ("agent", "3", "2", "3", "whole", "200", "end_turn"),
        ("agent", "4", "1", "5", "stream", "200", "cut: ReadError"),
    ]
    lines = valid("replay", cli.ok("replay", "agent", "--json").out)
    assert [f"{line['session']}@{line['version']}" for line in lines] == [row[0] for row in rows]
    assert all(line["served"] and line["difference"] is None for line in lines)
    assert [row[0] for row in cli.ok("replay", f"{rows[2][0]}").rows] == [row[0] for row in rows[:3]]


def body_of(cli: Cli, place: str) -> dict[str, Any]:
    """The exact request at a place, as `refold debug` prints it."""
    (line,) = valid("debug", _piped(cli, "debug", place, "--json", typed="r\n"))
    body: dict[str, Any] = json.loads(line["request"])
    return body


def test_a_replay_is_listed_without_loading_the_sdk(recorded: Path) -> None:
    code = (
        f"import sys; from session.cli import run; run(['--store', {str(recorded)!r}, 'replay', 'agent']); "
        "import session.recording, session.replay; "
        "print(*sorted({'anthropic', 'httpx2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "toolu_1" not in done.stdout
    assert "agent@4" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


def test_a_request_is_compared_with_the_call_it_was_meant_to_be(cli: Cli, tmp_path: Path) -> None:
    place = cli.ok("replay", "agent").rows[3][0]
    body, file = body_of(cli, place), tmp_path / "body.json"
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    file.write_text(json.dumps(body))
    assert "the request that was recorded; served" in cli.ok("replay", "agent", "--request", str(file)).out
    body["messages"][2]["content"][0]["content"] = f"other {HOSTILE}"
    file.write_text(json.dumps(body))
    ran = cli("replay", "agent", "--request", str(file))
    assert (ran.code, "\x1b" in ran.out) == (2, False)
    assert ran.out.splitlines()[0].endswith("tool result changed")
    assert "/messages/2/content/0/content" in ran.out
    ran = cli("replay", place, "--request", str(file), "--json")
    (line,) = valid("replay", ran.out)
    assert (ran.code, line["difference"]["cause"], line["difference"]["before"]) == (
        2,
        "tool result changed",
        '"things"',
    )


def test_a_request_of_a_message_thread_stands_for_all_its_messages(tmp_path: Path) -> None:
    @beta_tool
    def look() -> str:
        """Look."""
        return "things"

    api = ScriptedApi([Reply(content=[calls("look", {}, "toolu_1")]), "Fine."])
    with Recorder(tmp_path / "store", session="agent") as recorder, api.client(middleware=[recorder]) as client:
        runner = client.beta.messages.tool_runner(tools=[look], messages=[{"role": "user", "content": "Go"}], **ASK)
        runner.until_done()
    cli, file = Cli(tmp_path / "store"), tmp_path / "body.json"
    body = api.calls[1].json
    assert (body["thread"]["type"], len(body["messages"])) == ("continue", 1)
    file.write_text(json.dumps(body))
    assert "agent@8: the request that was recorded" in cli.ok("replay", "agent", "--request", str(file)).out
    body["messages"][0]["content"][0]["content"] = "other things"
    file.write_text(json.dumps(body))
    ran = cli("replay", "agent", "--request", str(file))
    assert (ran.code, "tool result changed" in ran.out, "/messages/2/content" in ran.out) == (2, True, True)
    body["thread"]["previous_message_id"] = "msg_of_another"
    file.write_text(json.dumps(body))
    ran = cli("replay", "agent", "--request", str(file))
    assert (ran.code, ran.out) == (1, "")
    assert "thread that is not in this recording" in ran.err


def test_calls_of_other_sessions_are_listed_up_to_the_place_too(cli: Cli) -> None:
    places = [row[0] for row in cli.ok("replay", "agent").rows]
    assert [place.partition("@")[0] for place in places] == ["agent", "agent.2", *["agent"] * 3]
    assert [row[0] for row in cli.ok("replay", places[0]).rows] == places[:2], "up to the next of its own"
    assert [row[0] for row in cli.ok("replay", places[3]).rows] == places[:4]
    assert cli.ok("replay", "agent@1").rows == []


def test_the_nearest_call_is_found_in_one_go_through_each_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, talk = ScriptedApi(lambda _body, number: f"answer {number}"), list[Any]()
    with Recorder(tmp_path / "store", session="agent") as recorder, api.client(middleware=[recorder]) as client:
        for number in range(30):
            talk.append({"role": "user", "content": f"Ask {number}"})
            talk.append({"role": "assistant", "content": client.messages.create(messages=talk, **ASK).content})
        client.messages.create(messages=[*talk[:20], {"role": "user", "content": "In a fork"}], **ASK)
    cli, file, added = Cli(tmp_path / "store"), tmp_path / "body.json", 0
    add = Fold.add

    def counting(fold: Fold, *event: Any) -> None:
        nonlocal added
        added += 1
        add(fold, *event)

    monkeypatch.setattr(Fold, "add", counting)
    cli.ok("replay", "agent")
    listed, added = added, 0
    cases = (  # the call in whose place it is asked, what is asked, and how many goes more than a listing takes
        (14, {"messages": json.loads(api.calls[14].body)["messages"]}, "recorded", 0),
        (14, {"messages": json.loads(api.calls[14].body)["messages"], "max_tokens": 7}, "differs", 2),
        (
            30,
            {"messages": [*json.loads(api.calls[30].body)["messages"], {"role": "user", "content": "?"}]},
            "differs",
            2,
        ),
    )
    for place, changed, said, goes in cases:
        file.write_text(json.dumps({**ASK, **changed}))
        added = 0
        out = cli("replay", "agent", "--request", str(file)).out
        rows = cli.ok("replay", "agent").rows
        assert out.startswith(f"{rows[place][0]}: ")
        assert said in out
        assert added <= (2 + goes) * listed


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"messages": 1}', "\udcff", '{"messages": []', '{"messages": []}', '{"messages": [], "model": 5}'],
)
def test_a_file_that_is_no_request_is_refused(cli: Cli, tmp_path: Path, text: str) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    ran = cli("replay", "agent", "--request", str(file))
    assert (ran.code, ran.out) == (1, "")
    assert str(file) in ran.err


def test_a_session_without_requests_is_no_recording(tmp_path: Path) -> None:
    with BlockingEventSessionStorage(tmp_path / "store") as store:
        store.save(SessionState.new("saved", messages=[{"role": "user", "content": "Hello"}]))
    ran = Cli(tmp_path / "store")("replay", "saved")
    assert (ran.code, ran.out) == (1, "")
    assert "it holds no request" in ran.err


# --- debug ------------------------------------------------------------------------------------------------------------


def _piped(cli: Cli, *arguments: str, typed: str) -> str:
    before, sys.stdin = sys.stdin, io.StringIO(typed)
    try:
        return cli.ok(*arguments).out
    finally:
        sys.stdin = before


def test_every_step_is_printed_with_what_it_changed(cli: Cli) -> None:
    lines = valid("debug", cli.ok("debug", "agent", "--steps", "--json").out)
    log = [json.loads(line) for line in cli.ok("log", "agent", "--json").out.splitlines()]
    assert [(line["version"], line["type"]) for line in lines] == [(line["version"], line["type"]) for line in log]
    assert [line["head"] for line in lines] == [len(log)] * len(log)
    said = next(line for line in lines if line["type"] == "message_appended")
    assert (said["messages"], said["status"], said["pending"]) == (1, "waiting", "message")
    assert "messages: 0 -> 1" in said["changed"][0]
    rows = cli.ok("debug", "agent", "--steps").rows
    assert [row[0] for row in rows] == [str(line["version"]) for line in lines]
    assert cli.ok("debug", "agent@3", "--steps").rows == rows[3:]


def test_commands_step_forwards_and_backwards_by_event_and_turn(cli: Cli) -> None:
    rows = _piped(cli, "debug", "agent", typed="n\n\nn\np\nN\nN\nP\ng 4\ng turn:1\ng -1\nn\nq\nn\n").splitlines()
    turns = [line["version"] for line in valid("debug", cli.ok("debug", "agent", "--steps", "--json").out)]
    with BlockingEventSessionStorage(cli.store) as store:
        first, second = (turn.last for turn in store.turns("agent"))
    head = turns[-1]
    assert [int(row.split("\t")[0]) for row in rows] == [1, 2, 3, 2, first, second, first, 4, first, head - 1, head]


def test_the_request_is_the_exact_body_that_would_be_sent(cli: Cli) -> None:
    place = cli.ok("replay", "agent").rows[0][0]
    printed = _piped(cli, "debug", place, typed="r\n")
    assert printed.startswith('{"model":"claude-sonnet-5-5","max_tokens":200,"system":"Be brief.","stream":true,')
    assert json.loads(printed)["messages"] == [{"role": "user", "content": HOSTILE}]


def test_what_is_no_command_is_told_of_and_makes_the_exit_code_1(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("x\x1b[2J\ng 99999\ng nowhere\np\nn\n"))
    ran = cli("debug", "agent")
    assert (ran.code, len(ran.rows)) == (1, 1)
    assert "no command x\\x1b[2J" in ran.err
    assert "place not found" in ran.err
    assert "nothing more" in ran.err


def test_hostile_content_controls_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store"
    seed_hostile(path, HOSTILE)
    for run in (Cli(path), Cli(path).on_terminal):
        out = run("debug", "sess_hostile", "--steps").out
        assert "\x1b[2J" not in out
        assert "\u202e" not in out
        assert r"\x1b[2J" in out


def test_a_person_at_a_terminal_is_asked(recorded: Path) -> None:
    arguments = ["-m", "session", "--store", str(recorded), "debug", "agent"]
    child = pexpect.spawn(sys.executable, arguments, timeout=60, encoding="utf-8", dimensions=(50, 160))
    child.expect_exact("q quit")
    asked = {"n": "1 of ", "": "2 of ", "N": "turn 1", "p": "turn 1", "r": '{"model":', "x": "no command"}
    for typed, shown in asked.items():
        child.expect(r"\d+/\d+> ")
        child.sendline(typed)
        child.expect_exact(shown)
    child.expect("> ")
    child.sendline("q")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_commands_come_through_a_pipe(recorded: Path) -> None:
    command = [sys.executable, "-m", "session", "--store", str(recorded), "debug", "agent"]
    done = subprocess.run(command, input="N\nq\n", capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout.splitlines()) == 1
