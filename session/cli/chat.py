"""`refold chat`: a live session at the terminal.

- What the model says is shown as it comes, each line indented, with everything that could control the terminal made
  visible. So nothing it writes looks like this program's own lines, which begin at the left.
- A tool that changes something runs only after a yes, typed behind the whole of what it would do. Keys pressed before
  the question count for nothing.
- Ctrl-C gives up the answer that is running; everything so far is kept, and the session goes on.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from session.cli._address import PLACE, SESSION, find_place, find_session
from session.cli._failures import CommandError, Exit, explain
from session.cli._options import command
from session.cli._output import say, to_json
from session.cli._store import open_store, store_path
from session.cli._visible import shortened, visible

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from session.live import Opening, Received, Session
    from session.storage import EventSessionStorage

DEFAULT_MODEL: Final = "claude-sonnet-5-5"
HARMLESS_TOOLS: Final = frozenset({"read", "glob", "grep"})  # they look, within the current directory
MODEL_VARIABLE: Final = "REFOLD_MODEL"

_INDENT: Final = "  "
_TAB: Final = "    "
_SHOWN_CHARACTERS: Final = 200
_SHOWN_LINES: Final = 12
_PAGE_BYTES: Final = 65_536
_YES: Final = frozenset({"y", "yes"})
_NO: Final = frozenset({"", "n", "no"})
_COMMANDS: Final = ("/help", "/cost", "/fork", "/rewind", "/quit", "/exit")
_HELP: Final = """\
/fork [PLACE]   go on in a fork of this session, at a place in it: 12, -3, turn:2 (default: here)
/rewind PLACE   set aside what came after the place; it stays in the store
/cost           what was used so far
/quit           end (Ctrl-D too)
Ctrl-C gives up a running answer. An empty line goes on with what is unanswered. A \\ at the end continues a line."""


@command(
    "chat",
    example="""refold chat
    refold chat --resume sess_4f --tools
    refold chat --fork sess_4f@turn:3 --model claude-opus-5-5""",
)
@click.option("--resume", type=SESSION, metavar="ID", help="Go on with a session.")
@click.option("--fork", "fork_at", type=PLACE, metavar="ID[@PLACE]", help="Go on in a fork of a session.")
@click.option("--model", envvar=MODEL_VARIABLE, help=f"The model (default: the session's own, or {DEFAULT_MODEL}).")
@click.option("--system", help="The system prompt.")
@click.option("--tools", "with_tools", is_flag=True, help="bash, read, write, edit, glob, grep, in this directory.")
@click.option("--take-over", is_flag=True, help="The process that left a request open is gone.")
def chat(
    *, resume: str | None, fork_at: str | None, model: str | None, system: str | None, with_tools: bool, take_over: bool
) -> int | None:
    """Talk with a model; every message is in the store the moment it is there.

    There are no tools without --tools. With it, each command, each written and each edited file is asked for.
    """
    if resume and fork_at:
        raise CommandError("--resume and --fork exclude each other")
    from session.sdk import environment_client  # noqa: PLC0415 - takes longer than everything else

    options: dict[str, Any] = {"model": model, "system": system, "take_over": take_over}
    if not resume and not fork_at:
        options["model"] = model or DEFAULT_MODEL
    place = _place(resume or fork_at)
    options["client"] = environment_client()
    if options["client"] is None:
        raise CommandError("no key: set ANTHROPIC_API_KEY")
    with asyncio.Runner() as runner:
        chatting = Chatting(runner, options, with_tools=with_tools)
        try:
            chatting.open(*place, forked=fork_at is not None)
            failures = chatting.talk()
        finally:
            chatting.close()
    return Exit.ERROR if failures and not sys.stdin.isatty() else None  # a person has seen them


def _place(text: str | None) -> tuple[str | None, Any]:
    """The whole id of a session that is there, and where in it."""
    if text is None:
        return None, None
    with open_store() as store:
        if "@" not in text:
            return find_session(store, text), None
        place = find_place(store, text)
        return place.session_id, place.at


class Chatting:
    """One session after the other (forks), in one event loop: each turn runs until it ends or Ctrl-C is pressed."""

    def __init__(self, runner: asyncio.Runner, options: dict[str, Any], *, with_tools: bool) -> None:
        self._runner = runner
        self._options = options
        self._with_tools = with_tools
        self._screen = Screen()
        self._asked = Asked(self._screen)
        self._storage: EventSessionStorage | None = None
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        """The session that is open."""
        assert self._session is not None, "`open` comes first"
        return self._session

    def open(self, session_id: str | None, at: Any, *, forked: bool) -> None:  # noqa: ANN401 - a place
        """Open a session: a new one, or one that is there, or a fork of it."""
        from session.live import create_session, fork_session, resume_session  # noqa: PLC0415 - see `chat`
        from session.places import HEAD  # noqa: PLC0415
        from session.storage import EventSessionStorage  # noqa: PLC0415
        from session.tools import builtin_tools  # noqa: PLC0415

        self._storage = EventSessionStorage(store_path())
        options = {"session_storage": self._storage, "can_use_tool": self._asked.may_use, **self._options}
        if self._with_tools:
            options["tools"] = builtin_tools()
        if session_id is None:
            self._open(create_session(**options))
        elif forked:
            self._open(fork_session(session_id, at=HEAD if at is None else at, **options))
        else:
            self._open(resume_session(session_id, **options))

    def talk(self) -> int:
        """Read lines and answer them until the end; return how many could not be answered."""
        failures = 0
        if sys.stdin.isatty():
            self._screen.own("/help says what can be typed; Ctrl-D ends.")
        self._say_pending()
        while (line := _read_ask()) is not None:
            try:
                if not self._obey(line.strip()):
                    break
            except KeyboardInterrupt:
                self._screen.own("[given up; what came so far is kept]")
            except Exception as error:  # noqa: BLE001 - the session stays usable: said, and on with it
                self._screen.own()
                say(_explained(error))
                failures += 1
            sys.stdout.flush()
        return failures

    def close(self) -> None:
        """Close what is open. The store has everything already."""
        self._runner.run(self._close())

    def _obey(self, line: str) -> bool:
        """Do what *line* says; False: end."""
        word, _, rest = line.partition(" ")
        match word:
            case "/quit" | "/exit":
                return False
            case "/help":
                self._screen.own(_HELP)
            case "/cost":
                self._say_cost()
            case "/fork":
                self._fork(rest.strip())
            case "/rewind":
                self._rewind(rest.strip())
            case "":
                self._go_on()
            case _ if _is_mistyped(line):
                raise CommandError(f"{word} is no command, and was not sent: /help says which there are")
            case _:
                self._run(self._answer(line))
        return True

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._runner.run(work)

    def _open(self, opening: Opening) -> None:
        async def opened() -> Session:
            return await opening

        self._session = self._runner.run(opened())
        self._screen.own(f"session {self._session.id}, {self._session.state.prompt.model}, in {store_path()}")

    async def _answer(self, message: str | None) -> None:
        if message is not None:
            await self.session.send(message)
        try:
            async for part in self.session.receive():
                self._screen.show(part)
        finally:
            self._screen.end_line()

    def _go_on(self) -> None:
        if self.session.pending is not None:
            self._run(self._answer(None))

    def _fork(self, at: str) -> None:
        before = self.session
        self._open(before.fork(at=at) if at else before.fork())
        self._runner.run(before.close())

    def _rewind(self, at: str) -> None:
        if not at:
            raise CommandError("/rewind needs a place: 12, -3, turn:2")
        self._run(self.session.rewind(at))
        self._screen.own(f"{len(self.session.state.messages)} messages hold")
        self._say_pending()

    def _say_cost(self) -> None:
        usage = self.session.state.usage
        counters = {name: count for name, count in usage.to_dict().items() if name != "total_cost_usd"}
        unpriced = f", {usage.unpriced} responses without a known price" if usage.unpriced else ""
        self._screen.own(f"{usage.total_cost_usd:.4f} USD{unpriced}; {to_json(counters)}")

    def _say_pending(self) -> None:
        pending = self.session.pending
        if pending is not None:
            self._screen.own(f"[unanswered: {pending.kind}; an empty line goes on with it]")

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._storage is not None:
            await self._storage.aclose()
        await self._options["client"].close()


class Screen:
    """What is written to the terminal. What others wrote is indented, and can only ever add lines of text."""

    def __init__(self) -> None:
        self._at_left = True

    def own(self, text: str = "") -> None:
        """Lines of this program."""
        self.end_line()
        if text:
            sys.stdout.write("\n".join(map(visible, text.split("\n"))) + "\n")
        sys.stdout.flush()

    def others(self, text: str) -> None:
        """A piece of text that others wrote, which may begin and end within a line."""
        for number, line in enumerate(text.split("\n")):
            if number:
                sys.stdout.write("\n")
                self._at_left = True
            if line:
                sys.stdout.write((_INDENT if self._at_left else "") + visible(line.replace("\t", _TAB)))
                self._at_left = False
        sys.stdout.flush()

    def quoted(self, text: str, most_lines: int | None = None) -> None:
        """Lines that others wrote; only the first *most_lines* of them."""
        lines = text.split("\n")
        self.end_line()
        self.others("\n".join(lines[:most_lines]))
        self.end_line()
        if most_lines is not None and len(lines) > most_lines:
            self.own(f"[{len(lines) - most_lines:,} more lines]")

    def end_line(self) -> None:
        """Begin a new line, if one is begun."""
        if not self._at_left:
            sys.stdout.write("\n")
            self._at_left = True

    def show(self, part: Received) -> None:
        """A part of an answer."""
        match part.type:
            case "text":
                self.others(part.text)
            case "tool_use":
                self.own(f"[{part.name} {shortened(_in_words(part.input), _SHOWN_CHARACTERS)}]")
            case "tool_result":
                self.quoted(_in_words(part.content), _SHOWN_LINES)
            case "error":
                self.own(f"[attempt {part.attempt} failed ({part.status or 'no answer'}): {part.message}; once more]")
            case "stop" if part.stop_reason != "end_turn":
                self.own(f"[stopped: {part.stop_reason}]")
            case _:
                pass


class Asked:
    """Who is asked whether a tool may run: the person at the terminal. Without a terminal, nothing that changes
    anything is allowed.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    async def may_use(self, name: str, tool_input: dict[str, Any]) -> bool | str:
        """True, or why not."""
        if name in HARMLESS_TOOLS:
            return True
        if not sys.stdin.isatty():
            return "There is nobody at the terminal to allow this."
        self._screen.own(f"{name} is to run:")
        for key, value in tool_input.items():
            text = _in_words(value)
            if "\n" in text:
                self._screen.own(f"{key}:")
                self._screen.quoted(text)
            else:
                self._screen.own(f"{key}: {text}")
        _forget_typed(sys.stdin.fileno())
        sys.stdout.write("Allow it? [y/N, or say what to do instead] ")
        sys.stdout.flush()
        answer = (await _read_answer(sys.stdin.fileno())).strip()
        if answer.lower() in _YES:
            return True
        return "The user did not allow this." if answer.lower() in _NO else f"The user did not allow this: {answer}"


def _is_mistyped(line: str) -> bool:
    """Whether *line* was meant for this program: a word behind a slash, or nearly a command. A path is not."""
    from difflib import get_close_matches  # noqa: PLC0415 - while a person types

    word = line.partition(" ")[0]
    return re.fullmatch("/[a-z]+", word) is not None and (word == line or bool(get_close_matches(word, _COMMANDS)))


def _forget_typed(terminal: int) -> None:
    """Keys pressed before a question are no answer to it."""
    import termios  # noqa: PLC0415 - only where there is a terminal

    termios.tcflush(terminal, termios.TCIFLUSH)


async def _read_answer(terminal: int) -> str:
    """The next line that is typed; "" at the end of input. Cancelled by Ctrl-C, as everything in a turn."""
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[bytes] = loop.create_future()

    def ready() -> None:
        if not typed.done():
            typed.set_result(os.read(terminal, _PAGE_BYTES))

    loop.add_reader(terminal, ready)
    try:
        return (await typed).decode("utf-8", "replace")
    finally:
        loop.remove_reader(terminal)


def _read_ask() -> str | None:
    """A line to answer, with what a backslash at its end continues; None at the end. Ctrl-C begins the line anew."""
    lines: list[str] = []
    while True:
        try:
            line = _read_line("> " if not lines else ". ")
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            lines = []
            continue
        if line is None:
            return "\n".join(lines) if lines else None
        if not line.endswith("\\"):
            return "\n".join([*lines, line])
        lines.append(line[:-1])


def _read_line(prompt: str) -> str | None:
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
    import contextlib  # noqa: PLC0415 - with readline

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - lines that can be edited, where there is such a library
    try:
        return input(prompt)
    except EOFError:
        sys.stdout.write("\n")
        return None


def _in_words(value: object) -> str:
    """A tool's input or result as text, not yet made visible."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(block, dict) and block.get("type") == "text" for block in value):
        return "\n".join(str(block.get("text")) for block in value)
    return to_json(value)


def _explained(error: Exception) -> str:
    """What went wrong in a turn, in one line."""
    if type(error).__module__.partition(".")[0] == "anthropic":
        return f"refold: {type(error).__name__}: {error}"
    advice = " (refold chat --resume ID --take-over)" if type(error).__name__ == "RequestOpenError" else ""
    return f"refold: {explain(error)[0]}{advice}"
