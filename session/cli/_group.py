"""The group `refold`: which commands there are, known without loading one of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from session.cli._failures import CommandError
from session.cli._options import shared_options

if TYPE_CHECKING:
    from collections.abc import Iterator

# name -> (where it is, what it does in a few words), in the order of `refold --help`
_LOOKING: Final = {
    "list": ("looking:list_sessions", "The sessions, newest first."),
    "show": ("looking:show", "The messages of a session."),
    "log": ("log:log", "The events of a session, with times and digests."),
    "tail": ("log:tail", "The newest events; -f waits for more."),
    "page": ("page:page", "A session to read: one HTML page, or Markdown."),
    "search": ("search:search", "Find text in all sessions."),
    "stats": ("spending:stats", "Tokens, cache hits, cost: by day, model, tool, session."),
    "cost": ("spending:cost", "What it cost: by day, model, session."),
}
_FORKING: Final = {
    "fork": ("forking:fork", "A new session that shares the past of another."),
    "tree": ("relating:tree", "A session and its forks."),
    "diff": ("relating:diff", "Where two sessions part."),
    "resume": ("repairing:resume", "The request with which a session would go on, repaired."),
    "chat": ("chat:chat", "Talk; every message is kept."),
    "replay": ("replay:replay", "Run a program against a recording."),
    "debug": ("replay:debug", "Step through a recording."),
}
_CHECKING: Final = {
    "verify": ("checking:verify", "Is the record whole and untouched?"),
    "checkpoint": ("checking:checkpoint", "All heads, to be kept elsewhere for `verify`."),
    "lint": ("repairing:lint", "What the Messages API would refuse."),
    "doctor": ("about:doctor", "Versions, paths, the health of the store, what to do."),
}
_KEEPING: Final = {
    "import": ("transfer:import_sessions", "Sessions from files of other programs."),
    "export": ("transfer:export_sessions", "Sessions as files."),
    "rename": ("keeping:rename", "Give a session a title."),
    "tag": ("keeping:tag", "Add tags to a session, or take them away."),
    "delete": ("keeping:delete", "Delete sessions."),
    "cleanup": ("keeping:cleanup", "Delete sessions in which nothing happened for long."),
    "backup": ("keeping:backup", "A consistent copy of the store."),
    "compact": ("keeping:compact", "Give the room of erased events back to the disk."),
}
_ELSE: Final = {
    "demo": ("demo:demo", "The whole idea in two minutes, in a temporary store."),
    "completion": ("about:completion", "Completion for bash, zsh or fish."),
    "schema": ("about:schema", "The JSON schema of what a command prints with --json."),
}
SECTIONS: Final = {
    "Look": _LOOKING,
    "Fork and go on": _FORKING,
    "Check": _CHECKING,
    "Keep": _KEEPING,
    "Else": _ELSE,
}
COMMANDS: Final = {name: found for section in SECTIONS.values() for name, found in section.items()}


class LazyGroup(click.Group):
    """A group that imports the module of a command when it is called, or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command called *cmd_name*, loaded now; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            loaded = import_module(f"session.cli.{module}")
        except ModuleNotFoundError as error:
            if error.name != f"session.cli.{module}":
                raise
            raise CommandError(f"{cmd_name}: this version does not have the command yet") from error
        command: click.Command = getattr(loaded, attribute)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without any argument: the help."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that *args* begin with; where there is none, the error names those that look like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415 - for who mistyped

            close = get_close_matches(args[0], COMMANDS)
            if not close:
                raise
            raise click.UsageError(f"{error.message} Did you mean {' or '.join(close)}?", ctx) from error

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - what the command returns
        """Run the command. Ctrl-C is an error like others: click would print an empty line for it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise CommandError("interrupted") from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        """Names of commands from the table, then options: nothing is loaded."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - while a shell asks

        found = [CompletionItem(name, help=text) for name, text in self._summaries() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table of commands, section by section."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])

    def _summaries(self) -> Iterator[tuple[str, str]]:
        return ((name, text) for name, (_, text) in COMMANDS.items())


def _print_version(ctx: click.Context, _: click.Parameter, value: Any) -> None:  # noqa: ANN401 - click's signature
    if value and not ctx.resilient_parsing:
        from importlib import metadata  # noqa: PLC0415 - slow to import

        click.echo(f"refold {metadata.version('refold')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
A place in a session is ID@412 (a version), ID@-3 (three events before the end), ID@msg_01... (a message),
ID@turn:7 (the end of a turn) or ID alone; the beginning of an id is enough where only one begins so.

\b
Exit codes: 0 ok, 1 error, 2 a difference or a problem was found, 3 not found, 4 the store is locked or corrupt.

\b
Example: refold list; refold show sess_4f@turn:3; refold fork sess_4f@turn:3""",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="The version."
)
@shared_options
def refold() -> None:
    """An event-sourced store for conversations with Claude: audit, fork, replay."""
