"""Ctrl-C while the command `refold` is being loaded: held, until there is somebody to say "interrupted".

Loading takes a seventh of a second, most of it before any code of the command runs. A `KeyboardInterrupt` there is a
traceback, and in the middle of the loading of an extension module it has crashed Python. So this module is loaded
before all others, and loads next to nothing. In any program but the command it does nothing.
"""

import sys

_PROGRAM = "refold"
_CALLED_BY_IT = b"session.cli"  # what the installed script imports
_SCRIPT_BYTES = 4_096

_state = {"holding": False, "interrupted": False}


def hold() -> None:
    """Hold Ctrl-C from here on, if this process is the command and Ctrl-C would end it."""
    if not _is_command():
        return
    import signal  # noqa: PLC0415 - no other program needs it for this

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored, it stays so: `refold ... &`
        signal.signal(signal.SIGINT, _note)
        _state["holding"] = True


def release() -> None:
    """Let Ctrl-C be what it is again. Raises `KeyboardInterrupt` if one was held."""
    if _state["holding"]:
        import signal  # noqa: PLC0415 - as above

        _state["holding"] = False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if _state["interrupted"]:
            raise KeyboardInterrupt


def _note(_number: int, _frame: object) -> None:
    _state["interrupted"] = True


def _is_command() -> bool:
    """Whether this is `python -m session`, whose package is loaded before its `__main__`, or the script `refold`."""
    called = sys.argv[0] if getattr(sys, "argv", None) else ""
    if called == "-m":
        arguments = sys.orig_argv
        return "-m" in arguments and arguments[arguments.index("-m") + 1 :][:1] == ["session"]
    return called.rpartition("/")[2] == _PROGRAM and _calls_us(called)


def _calls_us(script: str) -> bool:
    try:
        with open(script, "rb") as file:  # noqa: PTH123 - pathlib takes as long to load as half of what is held here
            return _CALLED_BY_IT in file.read(_SCRIPT_BYTES)
    except OSError:
        return False


hold()
