"""Entry point of `spade-bench`: global options, error handling, one module per command."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from spade_bench.cli.help.commandhelp import GroupedCommand
from spade_bench.cli.help.helptexts import START, TEXTS

__all__ = ["app", "main"]

# Command name -> (module, function). The order is the order of `--help`: the order of use.
_COMMANDS = {
    "list": ("listing", "list_plugins"),
    "show": ("listing", "show"),
    "doctor": ("doctor", "doctor"),
    "check": ("check", "check"),
    "init": ("init", "init"),
    "simulate": ("simulate", "simulate"),
    "extract": ("extract", "extract"),
    "pretrain": ("pretrain", "pretrain"),
    "import-spade": ("import_spade", "import_spade"),
    "encode": ("encode", "encode"),
    "pack": ("pack", "pack"),
    "cohort": ("cohort", "cohort"),
    "validate": ("validate", "validate"),
    "run": ("run", "run"),
    "fit": ("fit", "fit"),
    "predict": ("predict", "predict"),
    "explain": ("explain", "explain"),
    "robustness": ("robustness", "robustness"),
    "report": ("report", "report"),
    "compare": ("report", "compare"),
    "cite": ("report", "cite"),
    "merge": ("exchange", "merge"),
    "export": ("exchange", "export"),
    "import": ("exchange", "import_results"),
    "push": ("exchange", "push"),
    "pull": ("exchange", "pull"),
    "demo": ("demo", "demo"),
}


app = typer.Typer(
    name="spade-bench",
    help="Benchmark computational pathology encoders; pretrain and run SPADE.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(value: bool) -> None:
    if value:
        from spade_bench.version import __version__

        typer.echo(f"spade-bench {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Plain lines, no progress bars.")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Load a plugin: a .py file, or a .yaml task card. May be repeated."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    from spade_bench import console, plugins

    console.set_quiet(quiet)
    for file in plugin or []:
        plugins.load_file(file)


for _name, (_module, _function) in _COMMANDS.items():
    _loaded: Any = importlib.import_module(f"spade_bench.cli.{_module}")
    app.command(_name, cls=GroupedCommand, short_help=TEXTS[_name].line)(
        getattr(_loaded, _function)
    )


@functools.cache
def _parser() -> Any:
    """All commands with their options, put together once for all calls of `main`."""
    return typer.main.get_command(app)


@contextlib.contextmanager
def _stopping_in_order() -> Iterator[None]:
    """Let a batch system that ends this process have done with it what Ctrl-C has done.

    Without, jobs and leases would be left to nobody. A handler of the caller's stays.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the tidying up
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _printable_warnings() -> Iterator[None]:
    """Let no warning of a library steer the terminal: it may quote a name from a file."""
    from spade_bench.errors import printable

    plain = warnings.formatwarning

    def formatted(*args: Any, **kwargs: Any) -> str:
        return printable(plain(*args, **kwargs))

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = plain


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code (0, 1, 2 or 130)."""
    # Spinning OpenMP threads beside a second busy process cost an order of magnitude on small
    # machines; this must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A locale without an em dash or a micro sign must not end a command.
            stream.reconfigure(errors="backslashreplace")
    arguments = _globals_first(sys.argv[1:] if argv is None else argv)
    if not arguments:
        sys.stdout.write(START)
        sys.exit(0)
    debug = "--debug" in arguments
    from spade_bench.keywords import command_line

    try:
        with command_line(), _stopping_in_order(), _printable_warnings():
            code = _parser()(arguments, standalone_mode=False)
        if code == 130:  # newer Typer turns Ctrl-C into an exit code instead of raising
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; run the same command again to continue", 130)
    except Exception as error:
        from spade_bench.errors import UserError, machine_fault
        from spade_bench.plugins import loaded_files, place_of

        if debug:
            raise
        if isinstance(error, UserError):
            _fail(str(error), 2)
        # Typer ships its own copy of click in new releases and imports it in older ones; usage
        # errors are told apart by what they can do, which is the same in both.
        if hasattr(error, "format_message"):
            _fail(f"{error.format_message()} See `{_command_of(error)} --help`", 2)
        if (fault := machine_fault(error)) is not None:
            _fail(str(fault), 2)
        if place := place_of(error):
            said = f"the plugin raised {type(error).__name__}: {error}"
            _fail(f"{place}: {said}. Correct it there; --debug shows the traceback", 2)
        whose = "This is a bug"
        if loaded_files():
            whose = "This is a bug, of the plugin if `spade-bench check` finds it"
        _fail(
            f"internal error: {type(error).__name__}: {error}. {whose}: run again with "
            "--debug and report the traceback",
            1,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> NoReturn:
    from spade_bench import console

    # A full disk behind a redirected stderr must not turn the message into a traceback.
    with contextlib.suppress(OSError):
        console.say(f"error: {' '.join(message.split())}")
    sys.exit(code)


def _command_of(error: Any) -> str:
    """The command whose help explains a mistake of parsing."""
    context = getattr(error, "ctx", None)
    name = context.info_name if context is not None and context.parent is not None else ""
    return f"spade-bench {name}".strip()


def _globals_first(arguments: list[str]) -> list[str]:
    """Accept global options behind the command too, where people type them."""
    front: list[str] = []
    rest: list[str] = []
    items = iter(arguments)
    for item in items:
        if item == "--":
            rest += [item, *items]
        elif item in {"--debug", "--quiet"} or item.startswith("--plugin="):
            front.append(item)
        elif item == "--plugin":
            front += [item, *([value] if (value := next(items, None)) is not None else [])]
        else:
            rest.append(item)
    return front + rest


if __name__ == "__main__":
    main()
