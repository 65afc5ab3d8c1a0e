"""`refold`, the command line: one module per family of commands, loaded when one of them is called.

Exit codes: 0 ok, 1 error, 2 a difference or a problem was found, 3 not found, 4 the store is locked or corrupt.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from typing import TYPE_CHECKING, Final

from session import _starting
from session.cli._failures import Exit, fail
from session.cli._group import refold

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Exit", "main", "run"]

_OBJECTS_UNTIL_COLLECTION: Final = 50_000  # loading modules makes many, and nothing to collect


def main() -> None:
    """What the installed command `refold` runs; ends the process with the exit code."""
    warnings.showwarning = _show_warning
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # an encoding that lacks a character
    gc.set_threshold(_OBJECTS_UNTIL_COLLECTION)
    code = run(sys.argv[1:])
    gc.freeze()  # to collect once more what ends anyway takes a tenth of the time of a short command
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command in this process and return its exit code: every failure is one line on stderr."""
    try:
        _starting.release()
        outcome = refold.main(list(arguments), prog_name="refold", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - nobody wants a traceback from a command
        return fail(error)
    except SystemExit as ended:  # shell completion ends so
        return ended.code if isinstance(ended.code, int) else Exit.ERROR
    return int(outcome or Exit.OK)


def _open_what_is_closed() -> None:
    """Whoever started this process may have closed its streams: then nothing is read, and what is written goes nowhere.
    Left closed, their numbers would go to files of the store.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - until the process ends


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    from session.cli._visible import visible  # noqa: PLC0415 - it is rare

    sys.stderr.write(f"refold: warning: {visible(str(message))}\n")
