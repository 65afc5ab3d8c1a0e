"""Creating, resuming and forking: everything that is decided before a session is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack, cast

import msgspec
from msgspec import UNSET

from session.live import _journal
from session.live._context import Context
from session.live._prompt import GivenPrompt, plan_prompt_change
from session.live._session import Opening, Session
from session.live._settings import Settings, one_at_a_time
from session.metadata import check_mapping
from session.places import HEAD
from session.pricing import load_prices
from session.saving import plan_metadata
from session.sdk import require_async
from session.state import Prompt
from session.storage import get_default_storage
from session.tools import Toolbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from anthropic import AsyncAnthropic

    from session.events import Meta, SessionEvent
    from session.live._journal import Branch, Journal
    from session.places import At
    from session.request import Given
    from session.state import SessionState
    from session.storage import SessionStorage
    from session.tools import CanUseTool, Tool


class Options(TypedDict, total=False):
    """What `create_session`, `resume_session` and `fork_session` take alike. For each, None is what the session has.

    Recorded: *model*, *system* (a text, blocks, or exact JSON), *max_tokens* and *parameters* (whatever else the
    Messages API takes; a value of None takes one away; prompt caching is on through `cache_control`), the definitions
    of *tools*, and *metadata*. Parts of equal value keep the bytes that were sent first.

    Not recorded, so to be given each time: *tools* to run (the SDK's `@beta_tool` and `@beta_async_tool` functions,
    `builtin_tools()`, plain dicts for server tools), *can_use_tool*, *tool_timeout_seconds* (for each call),
    *max_turns* (answers per `receive`), *session_storage* (default: `get_default_storage()`), *client* (an async client
    of the SDK; default: a new `AsyncAnthropic`) and *meta*, which goes with each event.

    *take_over*: another process' open request is dead, go on without its answer. *strip_thinking*: where a changed
    *system* or *tools* would invalidate the thinking in the history, send it without its thinking from now on.
    """

    model: str | None
    tools: Iterable[Tool | Mapping[str, Any]] | None
    system: Given
    session_storage: SessionStorage | None
    client: AsyncAnthropic | None
    max_turns: int | None
    max_tokens: int | None
    parameters: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    can_use_tool: CanUseTool | None
    tool_timeout_seconds: float | None
    strip_thinking: bool
    take_over: bool
    meta: Meta


_OPTIONS: Final = frozenset(Options.__annotations__)


def create_session(
    *,
    resume: str | None = None,
    fork: str | None = None,
    at: int | str | At | None = None,
    session_id: str | None = None,
    **options: Unpack[Options],
) -> Opening:
    """A new session, durable when it is there; *session_id* None: one is made up. To be awaited, or used in `async
    with`, which closes it at the end. See `Options`.

    With *resume* it is `resume_session`, with *fork* (and *at*) `fork_session`. Raises `ValueError` for a combination
    of these that has no meaning; when opened `NoModelError`, `SessionExistsError`, `InvalidSessionIdError`,
    `InvalidMetadataError`, `InvalidPromptError`.
    """
    if sum(given is not None for given in (resume, fork, session_id)) > 1:
        raise ValueError("`resume`, `fork` and `session_id` exclude each other")
    if at is not None and fork is None:
        raise ValueError("`at` is a place to fork at, and there is no `fork`")
    if resume is not None:
        return resume_session(resume, **options)
    if fork is not None:
        return fork_session(fork, at=HEAD if at is None else at, **options)
    checked = _checked(options)
    return Opening(lambda: _create(session_id, checked))


def resume_session(session_id: str, **options: Unpack[Options]) -> Opening:
    """An existing session, where it stands. To be awaited, or used in `async with`. See `Options`.

    Nothing is sent to the API, and nothing is written but what *options* change. `pending` says what is unanswered.
    What a crash left is repaired when the session goes on, by events that say so: a response that was cut stays out, a
    tool call without a result gets one, and if its tool was started, that says that it is in doubt. Where starts were
    not recorded (another storage, an import, a recording), any of them may have run, and is in doubt.

    Raises when opened `SessionNotFoundError`, `SessionDeletedError`, `ThinkingBoundError`, `InvalidPromptError`, and
    `NoModelError` where the storage keeps no prompt.
    """
    checked = _checked(options)
    return Opening(lambda: _resume(session_id, checked))


def fork_session(session_id: str, *, at: int | str | At = HEAD, **options: Unpack[Options]) -> Opening:
    """A new session that shares everything up to *at* with an existing one. To be awaited, or used in `async with`. See
    `Options`. Nothing is copied, and its requests begin byte for byte as the other's.

    Raises when opened as `resume_session` does, and `PlaceNotFoundError`, `InvalidPlaceError`.
    """
    checked = _checked(options)
    return Opening(lambda: _fork(session_id, at, checked))


def _fork_of(context: Context, at: int | str | At, given: Mapping[str, Any]) -> Callable[[], Awaitable[Session]]:
    """What makes a fork of an open session, with what it has where *given* does not say otherwise."""
    options = _checked(given)
    if "session_storage" in options:
        raise ValueError("a fork is in the storage of its session")

    async def opened() -> Session:
        settings = msgspec.structs.replace(context.settings, **_settings_given(options))
        own_tools = options.get("tools") is not None
        toolbox = _toolbox(options, settings) if own_tools else context.toolbox
        branch = await context.journal.branch(at)
        child = await _forked(branch, context.journal.fold.prompt, toolbox, options)
        return Session(Context(child, settings, toolbox if own_tools else toolbox.retain(), context.prices), _fork_of)

    return opened


async def _create(session_id: str | None, options: Options) -> Session:
    settings, storage = _settings(options), _storage(options)
    toolbox = _toolbox(options, settings)
    prices = load_prices()
    prompt = _given(options, toolbox).on(session_id or "", Prompt())
    first: list[SessionEvent] = plan_prompt_change("", Prompt(), prompt, (), strip=False)
    first += plan_metadata({}, _metadata(options))
    journal = await _journal.create(storage, session_id, first, settings.meta)
    return Session(Context(journal, settings, toolbox, prices, unchecked=False), _fork_of)


async def _resume(session_id: str, options: Options) -> Session:
    settings = _settings(options)
    toolbox, prices = _toolbox(options, settings), load_prices()
    journal = await _journal.load(_storage(options), session_id, settings.meta)
    if events := _changes(journal.fold.state(), Prompt(), toolbox, options):
        await journal.record(*events)
    return Session(Context(journal, settings, toolbox, prices), _fork_of)


async def _fork(parent_id: str, at: int | str | At, options: Options) -> Session:
    settings, storage = _settings(options), _storage(options)
    toolbox, prices = _toolbox(options, settings), load_prices()
    branch = await _journal.branch(storage, parent_id, at, settings.meta)
    inherited = Prompt()
    if not branch.state.prompt.model:  # forked before the parent had one: then as the parent has it now
        inherited = (await _journal.load(storage, parent_id, settings.meta)).fold.prompt
    journal = await _forked(branch, inherited, toolbox, options)
    return Session(Context(journal, settings, toolbox, prices), _fork_of)


async def _forked(branch: Branch, inherited: Prompt, toolbox: Toolbox, options: Options) -> Journal:
    """The fork, with what *options* change. Whatever is refused is refused before anything is written."""
    events = _changes(branch.state, inherited, toolbox, options)
    child = await branch.forked()
    if events:
        await child.record(*events)
    return child


def _changes(state: SessionState, inherited: Prompt, toolbox: Toolbox, options: Options) -> list[SessionEvent]:
    """What *options* change in a session that is in *state*. *inherited*: the prompt, where it has none of its own."""
    old = state.prompt
    new = _given(options, toolbox).on(state.id, old if old.model else inherited)
    strip = options.get("strip_thinking", False)
    events = plan_prompt_change(state.id, old, new, state.messages.entries, strip=strip)
    if given := _metadata(options):
        events += plan_metadata(state.metadata, {**state.metadata, **given})
    return events


def _checked(options: Mapping[str, Any]) -> Options:
    if unknown := sorted(options.keys() - _OPTIONS):
        raise TypeError(f"no such option: {', '.join(unknown)}; there are {', '.join(sorted(_OPTIONS))}")
    if options.get("client") is not None:
        require_async(options["client"])
    return cast("Options", dict(options))


def _storage(options: Options) -> SessionStorage:
    return options.get("session_storage") or get_default_storage()


def _settings(options: Options) -> Settings:
    return Settings(**_settings_given(options))


def _settings_given(options: Options) -> dict[str, Any]:
    return {name: options[name] for name in Settings.__struct_fields__ if options.get(name) is not None}  # type: ignore[literal-required]


def _toolbox(options: Options, settings: Settings) -> Toolbox:
    return Toolbox(options.get("tools") or (), one_at_a_time(settings.can_use_tool), settings.tool_timeout_seconds)


def _metadata(options: Options) -> Mapping[str, Any]:
    given = options.get("metadata")
    if given is None:
        return {}
    check_mapping(given)
    return given


def _given(options: Options, toolbox: Toolbox) -> GivenPrompt:
    parameters = dict(options.get("parameters") or {})
    if options.get("max_tokens") is not None:
        parameters["max_tokens"] = options["max_tokens"]
    return GivenPrompt(
        model=options.get("model"),
        system=options.get("system"),
        tools=UNSET if options.get("tools") is None else toolbox.definitions(),
        parameters=parameters,
    )
