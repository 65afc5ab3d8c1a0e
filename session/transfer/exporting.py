"""Conversations as other programs read them: messages with their exact bytes, without the events behind them."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

from session import jsontext
from session.request import build_body
from session.storage.document import spliced
from session.storage.file import FileSessionStorage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from session.state import SessionState

_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")  # in JSON they stand between values only


def export_messages(state: SessionState) -> bytes:
    """The request of the Messages API that sends *state*: model, parameters, tools, system, messages. Each message
    keeps its bytes; one that is no JSON stands in an object that says so.
    """
    return build_body(state.prompt, map(spliced, state.messages.entries), stream=False)


def export_line(state: SessionState) -> bytes:
    """*state* as one line: its id and metadata beside what `export_messages` has. Raises `InvalidMetadataError`."""
    head = b'{"id":' + jsontext.encode(state.id)
    if state.metadata:
        head += b',"metadata":' + jsontext.encode(state.metadata)
    return (head + b"," + export_messages(state)[1:]).translate(_LINE_ENDS) + b"\n"


def export_folder(
    states: Iterable[SessionState], directory: str | os.PathLike[str], *, replace: bool = False
) -> Iterator[tuple[SessionState, bool]]:
    """Write each of *states* as `<id>.json` into *directory*, durable when it is yielded; False: there is a file of
    this name, and it was left alone (unless *replace*). Raises `StorageUnavailableError`, `InvalidMetadataError`.
    """
    storage = FileSessionStorage(directory)
    for state in states:
        free = replace or not os.path.lexists(storage.directory / f"{state.id}.json")  # a link to nowhere is there
        if free:
            asyncio.run(storage.save(state))
        yield state, free
