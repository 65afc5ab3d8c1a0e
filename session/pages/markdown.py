"""A session as Markdown (CommonMark, with GitHub's HTML for what is folded).

1. What was said is quoted (`> `), so that nothing in it is a heading, or the end, of anything of ours. It stays
   Markdown, but it brings no HTML, no image and no link that hides where it leads: `<`, `&`, `![`, `](` and `]:` are
   escaped outside fenced code. (In a code span the escape shows; that is the price.)
2. Inputs and results of tools are fenced, with a fence that is longer than any in them.
3. What cannot be seen is made visible, so it is valid UTF-8.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, assert_never

from session.pages._characters import one_line, visible
from session.pages._facts import used, when
from session.pages._parts import Call, Media, Other, Part, Result, Text, Thinking
from session.pages._story import Heading, Item, Note, Said, TurnBegan, story
from session.places import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session.places import At
    from session.storage.blocking import BlockingEventSessionStorage

_SHORT_CHARACTERS: Final = 80  # an input of one line of so many is not fenced
# At the very beginning of a line, so that no list or quote of the text can hold the fence.
_FENCE: Final = re.compile(r"(`{3,})[^`]*$|(~{3,})")
_FENCES: Final = re.compile(r"`+")
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>#!|~&])")


def markdown_page(storage: BlockingEventSessionStorage, session_id: str, at: int | str | At = HEAD) -> Iterator[str]:
    """The session as it was at *at*, in pieces: only an exchange at a time is held. UTF-8 can encode them.

    Raises as `storage.state_at`, before the first piece.
    """
    for item in story(storage, session_id, at):
        yield "".join(_item(item))


def _item(item: Item) -> Iterator[str]:
    match item:
        case Heading():
            yield from _heading(item)
        case TurnBegan():
            facts = [f"versions {item.first}\u2013{item.last}", when(item.began_at), used(item.usage)]
            yield f"## Turn {item.number}\n\n{_plain(' · '.join(filter(None, facts)))}\n\n"
        case Said():
            yield from _said(item)
        case Note():
            yield f"*{_plain(item.text)}*\n\n"
        case _:
            assert_never(item)


def _heading(head: Heading) -> Iterator[str]:
    yield f"# {_plain(head.title or head.session_id)}\n\n"
    for name, value in _facts(head):
        yield f"- {name}: {value}\n"
    yield "\n"
    if head.system:
        yield "<details><summary>System prompt</summary>\n\n"
        yield from _parts(head.system)
        yield "</details>\n\n"


def _facts(head: Heading) -> Iterator[tuple[str, str]]:
    yield "Session", f"`{head.session_id}` at version {head.version}, {head.status}"
    yield "Digest", f"`{head.digest.hex() or 'none'}` (commits to everything up to this version)"
    yield "Created", f"{when(head.created_at)}, last event {when(head.updated_at)}"
    if head.parent:
        yield "Forked from", _plain(f"{head.parent.session_id}@{head.parent.at}")
    if head.forks:
        yield "Forks", _plain(", ".join(f"{fork.session_id}@{fork.at}" for fork in head.forks))
    if head.model:
        yield "Model", _plain(head.model)
    yield "Messages", f"{head.messages:,}, turns: {len(head.turns):,}"
    if head.usage:
        yield "Usage", _plain(used(head.usage))
    if head.parent and head.usage:
        yield "Since the fork", _plain(used(head.own_usage) or "nothing")
    if head.tools:
        yield "Tools", _plain(", ".join(head.tools))


def _said(said: Said) -> Iterator[str]:
    name = "Summary" if said.summary else one_line(said.role).capitalize() or "Unreadable"
    stop = "" if said.stop_reason in {"", "end_turn", "tool_use"} else f"stopped: {said.stop_reason}"
    facts = filter(
        None, [f"@{said.version}" if said.version else "", said.model, when(said.at) if said.at else "", stop]
    )
    yield f"### {_plain(name)}\n\n{_plain(' · '.join(facts))}\n\n"
    yield from _parts(said.parts)


def _parts(parts: tuple[Part, ...]) -> Iterator[str]:
    for part in parts:
        match part:
            case Text(text):
                yield _quoted(text)
            case Thinking(text, redacted):
                shown = _quoted(text) if text else "Only the API can read it.\n\n" if redacted else "Empty.\n\n"
                yield f"<details><summary>Thinking</summary>\n\n{shown}</details>\n\n"
            case Call():
                yield from _call(part)
            case Result():
                yield f"**Result without its call** {_plain(part.call)}\n\n"
                yield from _result(part)
            case Media(label):
                yield f"\\[{_plain(label)}\\]\n\n"
            case Other(kind, text):
                yield f"**{_plain(kind) or 'Block'}**\n\n{_fenced(text)}"
            case _:
                assert_never(part)


def _call(call: Call) -> Iterator[str]:
    yield f"**Tool {_plain(call.name)}** {_plain(call.call)}\n\n"
    for name, value in call.fields:
        if len(value) <= _SHORT_CHARACTERS and "\n" not in value:
            yield f"{_plain(name)}: {_plain(value)}\n\n"
        else:
            yield f"{_plain(name)}:\n\n{_fenced(value)}"
    if call.result:
        yield from _result(call.result)
    else:
        yield "*No result.*\n\n"


def _result(result: Result) -> Iterator[str]:
    yield f"{'**Error**' if result.is_error else 'Result'}{'' if result.parts else ' (empty)'}:\n\n"
    for part in result.parts:
        match part:
            case Text(text) | Other(_, text):
                yield _fenced(text)
            case Media(label):
                yield f"\\[{_plain(label)}\\]\n\n"
            case _:
                assert_never(part)


def _plain(text: str) -> str:
    """*text* in one line, in which nothing is Markdown."""
    return _SPECIAL.sub(r"\\\1", one_line(text))


def _fenced(text: str) -> str:
    shown = visible(text)
    fence = "`" * max(3, 1 + max(map(len, _FENCES.findall(shown)), default=0))
    return f"{fence}text\n{shown}\n{fence}\n\n"


def _quoted(text: str) -> str:
    """*text* as a quotation, tamed."""
    lines, fence = [], ""
    for line in visible(text).split("\n"):
        begun = _FENCE.match(line)
        if fence:
            lines.append(line)
            fence = "" if _closes(line, fence) else fence
        elif begun:
            fence = begun[1] or begun[2]
            lines.append(line)
        else:
            lines.append(_tamed(line))
    if fence:
        lines.append(fence)  # the quotation after it is no code
    return "".join(f"> {line}\n" if line else ">\n" for line in lines) + "\n"


def _closes(line: str, fence: str) -> bool:
    """Whether CommonMark ends the code here: as long a fence at least, indented by up to three spaces."""
    stripped = line.strip(" \t")
    return len(stripped) >= len(fence) and set(stripped) == {fence[0]} and len(line) - len(line.lstrip(" ")) <= 3  # noqa: PLR2004


def _tamed(line: str) -> str:
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return line.replace("![", "!\\[").replace("](", "]\\(").replace("]:", "]\\:")
