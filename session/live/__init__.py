"""Live sessions: conversations that are on disk as they happen, resume after a crash and fork with a warm cache.

A turn, and what is durable when (each line one commit; what stands behind -> is done or shown only after it):

    send       [session_repaired] message_appended                  -> `send` returns
    receive    [response_interrupted "lost"] [session_repaired]     -> going on from what was left unanswered
      asking   request_sent, once per attempt                       -> the attempt is sent
               response_interrupted "error", if it failed           -> the SDK retries, or its error is raised
               block_received, as each block ends                   -> the next event is read
               usage_recorded + response_interrupted, if it is cut  -> its error is raised
               usage_recorded + response_received                   -> `tool_use`, `message` are shown
      running  tool_started                                         -> the tool runs
               tool_returned or tool_refused, as each ends          -> `tool_result` is shown, in the order of the calls
      then     asking again after tools and pauses                  -> otherwise `stop` is shown

1. Every append is at the exact version that the session knows. So a writer that was overtaken fails in `send` or at
   `request_sent`, before an API call is paid. What comes in after that (blocks, a response, results) is appended to a
   fork made where the writer last stood, and named by `AnswerKeptInForkError`. Metadata set by others disturbs nobody.
2. An append that has begun is waited for, even by a cancelled caller: the fold and the log never part. A cancellation
   is raised after it; then the open request is closed in the log (response_interrupted "cancelled"), and the tools that
   were running get results that say they are in doubt.
3. A response that did not complete is asked again; its blocks stay in the log and out of the messages. A tool_use
   without a result gets one that says so when the session goes on, in this process or in another (`session.lint`).
4. A 400 for a request whose newest part is the user's message: history_rewound sets it aside, unless the API names
   another part (`_refusals`).
5. Resuming and forking send nothing, and write only what their options change; what they refuse, they refuse before
   anything is written. Until the session goes on, what a crash left is seen in `pending` and `state.in_doubt`.
6. A request is spliced from exact bytes, so it begins as the one before, and a fork's as its parent's. Nothing a turn
   does grows with the history but the request itself, and of that only the splicing: what was looked through once is
   not parsed again (`RequestView`).

Over a storage that keeps no events, what is durable is the state: the messages, results and usage, saved at the same
points.

In the order of reading: `_opening`, `_session`, `_turn`, `_answer`, `_tool_runs`, `_journal`, `_view`.
"""

from __future__ import annotations

from session.live._opening import Options, create_session, fork_session, resume_session
from session.live._session import Opening, Receiving, Session
from session.live.received import MessageReceived, Received, Retried, Stop, Text, Thinking, ToolResult, ToolUse

__all__ = [
    "MessageReceived",
    "Opening",
    "Options",
    "Received",
    "Receiving",
    "Retried",
    "Session",
    "Stop",
    "Text",
    "Thinking",
    "ToolResult",
    "ToolUse",
    "create_session",
    "fork_session",
    "resume_session",
]
