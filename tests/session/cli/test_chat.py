"""`refold chat` at a terminal, against the scripted API: the real program, the real client, the real server."""

from __future__ import annotations

import io
import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pexpect  # type: ignore[import-untyped]  # it has none
import pytest

from session.cli import Exit, run
from session.places import HEAD
from session.storage import BlockingEventSessionStorage
from session.testing import Delay, Reply, ScriptedApi, calls, says

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from session.testing._server import LoopbackServer

COMMAND = [sys.executable, "-m", "session", "chat"]
HOSTILE = "safe\x1b]0;owned\x07\x1b[2J\u202etext\x9b1m\nnext\tline\r\x00"


def answers(body: dict[str, Any], _number: int) -> Reply:
    """By the newest text of the user."""
    last = body["messages"][-1]
    blocks = last["content"] if isinstance(last["content"], list) else [says(last["content"])]
    results = [block for block in blocks if block["type"] == "tool_result"]
    text = next((block["text"] for block in blocks if block["type"] == "text"), "")
    if results:
        return Reply(content=f"result: {results[0]['content']}")
    if text.startswith("run "):
        return Reply(content=[says("I run it."), calls("bash", {"command": text.removeprefix("run ")})])
    if text == "hold":
        return Reply(content="never seen " * 50, delay=Delay(hold_after_events=6))
    return Reply(content=HOSTILE if text == "hostile" else f"you said {text}")


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with ScriptedApi(answers).serve() as running:
        yield running


def environment(server: LoopbackServer | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC_", "REFOLD_"))}
    kept |= {"TERM": "xterm", "NO_PROXY": "127.0.0.1", "HOME": "/nonexistent", "PYTHONPATH": os.getcwd()}  # noqa: PTH109
    return kept if server is None else kept | {"ANTHROPIC_BASE_URL": server.base_url, "ANTHROPIC_API_KEY": "dummy"}


class Terminal:
    """The program in a pty, driven as by a person."""

    def __init__(self, server: LoopbackServer, store: Path, *options: str) -> None:
        arguments = [*COMMAND[1:], "--store", str(store), *options]
        self.child = pexpect.spawn(
            COMMAND[0],
            arguments,
            env=environment(server),
            encoding="utf-8",
            timeout=60,
            dimensions=(40, 300),
            cwd=store.parent,
        )
        self.child.delaybeforesend = None
        self.child.expect(r"session (\S+), ")
        self.session_id: str = self.child.match[1]
        self.ready()

    def ready(self) -> None:
        self.child.expect("\n> |^> ")

    def say(self, text: str) -> str:
        """What is shown until the next prompt."""
        self.child.sendline(text)
        self.child.expect_exact(text)  # the echo
        self.ready()
        return str(self.child.before)

    def quit(self) -> None:
        self.child.sendline("/quit")
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert self.child.exitstatus == 0


def test_a_conversation_is_in_the_store_as_it_happens_and_controls_nothing(
    server: LoopbackServer, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    terminal = Terminal(server, store)
    assert "  you said hello" in terminal.say("hello")
    with BlockingEventSessionStorage(store) as log:
        state = log.state_at(terminal.session_id, HEAD)
    assert [message["role"] for message in state.messages] == ["user", "assistant"]
    assert "USD" in terminal.say("/cost")
    assert "/rewind" in terminal.say("/help")
    assert "tools" not in server.api.calls[0].json

    shown = terminal.say("hostile")
    assert r"safe\x1b]0;owned\x07\x1b[2J\u202etext\x9b1m" in shown
    assert "  next    line\\r\\x00" in shown
    ours = re.sub(r"\x1b\[\?2004[hl]", "", shown)  # readline's own
    assert not set(ours) & {"\x1b", "\x07", "\u202e", "\x9b", "\x00", "\t"}

    terminal.child.sendline("hold")
    terminal.child.expect_exact("never seen")
    terminal.child.sendintr()
    terminal.child.expect_exact("[given up")
    terminal.ready()
    assert "you said more" in terminal.say("more")
    terminal.quit()


def test_a_command_runs_only_after_a_yes_and_is_shown_as_visible_text(server: LoopbackServer, tmp_path: Path) -> None:
    terminal = Terminal(server, tmp_path / "store", "--tools")
    child = terminal.child
    child.sendline("run touch made; echo do\x16\x1bne")  # ^V: the escape itself
    child.expect_exact("bash is to run:")
    child.expect_exact("command: touch made; echo do\\x1bne")
    child.expect_exact("Allow it?")
    assert not (tmp_path / "made").exists()
    child.sendline("y")
    child.expect_exact("result: ")
    terminal.ready()
    assert (tmp_path / "made").exists()

    child.sendline("run touch other")
    child.expect_exact("Allow it?")
    child.sendline("look first")
    child.expect_exact("result: The user did not allow this: look first")
    terminal.ready()

    child.send("run touch other\ny\ny\n")  # keys pressed before the question
    child.expect_exact("Allow it?")
    child.sendline("n")
    child.expect_exact("result: The user did not allow this.")
    terminal.ready()

    child.sendline("run touch other")
    child.expect_exact("Allow it?")
    child.sendintr()
    child.expect_exact("[given up")
    terminal.ready()
    assert not (tmp_path / "other").exists()
    assert "you said still here" in terminal.say("still here")
    terminal.quit()


@pytest.mark.slow
@pytest.mark.slow
def test_a_session_is_forked_rewound_and_resumed(server: LoopbackServer, tmp_path: Path) -> None:
    store = tmp_path / "store"
    terminal = Terminal(server, store)
    first = terminal.session_id
    terminal.say("one")
    terminal.say("two")
    assert "2 messages hold" in terminal.say("/rewind turn:1")
    forked = re.search(r"session (sess_\w+), ", terminal.say("/fork turn:1"))
    assert forked
    assert forked[1] != first
    terminal.say("three")
    assert "place not found" in terminal.say("/fork 999").lower()
    terminal.quit()

    again = Terminal(server, store, "--resume", first[:-3])
    assert again.session_id == first
    again.quit()
    other = Terminal(server, store, "--fork", f"{first}@turn:1")
    other.say("four")
    other.quit()
    with BlockingEventSessionStorage(store) as log:
        asked = {
            name: [m["content"] for m in log.state_at(name, HEAD).messages if m["role"] == "user"]
            for name in log.list()
        }
    assert sorted(asked.values()) == [["one"], ["one", "four"], ["one", "three"]]


def test_without_a_key_there_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_environment(monkeypatch, None)
    assert run(["--store", str(tmp_path / "store"), "chat"]) == Exit.ERROR
    assert capsys.readouterr().err == "refold: no key: set ANTHROPIC_API_KEY\n"
    assert not (tmp_path / "store").exists()


def test_through_a_pipe_each_line_is_a_message_and_no_tool_is_allowed(
    server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_environment(monkeypatch, server)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nmore \\\nlines\nrun touch made\n"))
    assert run(["--store", str(tmp_path / "store"), "chat", "--tools"]) == Exit.OK
    shown = capsys.readouterr().out
    assert "  you said hello\n" in shown
    assert "  you said more \n  lines\n" in shown
    assert "nobody at the terminal" in shown
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"{server.base_url}/nowhere")
    assert run(["--store", str(tmp_path / "store"), "chat"]) == Exit.ERROR
    assert capsys.readouterr().err.startswith("refold: NotFoundError: ")
    assert not (tmp_path / "made").exists()


def test_a_mistyped_command_is_not_sent_and_a_path_is(
    server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_environment(monkeypatch, server)
    typed = "/rewnd 1\n/costs\n/unheard\n/etc/passwd has how many lines?\n/tmp is what?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert run(["--store", str(tmp_path / "store"), "chat"]) == Exit.ERROR
    shown = capsys.readouterr()
    assert [line.split()[1] for line in shown.err.splitlines()] == ["/rewnd", "/costs", "/unheard"]
    assert re.findall("you said .*", shown.out) == [
        "you said /etc/passwd has how many lines?",
        "you said /tmp is what?",
    ]


def use_environment(monkeypatch: pytest.MonkeyPatch, server: LoopbackServer | None) -> None:
    wanted = environment(server)
    for name in os.environ.keys() - wanted.keys():
        monkeypatch.delenv(name)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
