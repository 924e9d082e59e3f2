"""The command line: one file a command. It only wraps `rhapsode.api`.

Data goes to standard output, progress and errors to standard error. Exit 0 for success, 2 for misuse, 1 for
failure, 130 after Ctrl-C. `--debug`, anywhere on the line, shows the traceback.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer
from typer.exceptions import TyperException

from rhapsode.cli import (
    ask,
    chat,
    check,
    distill,
    embed,
    evaluate,
    forget,
    generate,
    info,
    listing,
    memory,
    prepare,
    teach,
    tokenizer,
    train,
)
from rhapsode.errors import RhapsodeError

app = typer.Typer(
    name="rhapsode",
    help="Small language models that remember.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog="Add --debug anywhere to see the traceback of an error.",
)
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("teach")(teach.teach)
app.command("ask")(ask.ask)
app.command("forget")(forget.forget)
app.command("memory")(memory.memory)
app.command("eval")(evaluate.evaluate)
app.command("distill")(distill.distill)
app.command("info")(info.info)
app.command("check")(check.check)
app.command("prepare")(prepare.prepare)
app.command("list")(listing.list_parts)
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(embed.app, name="embed")


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    arguments = list(arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say_warning
            code = app(args=arguments, standalone_mode=False)
    except RhapsodeError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except TyperException as error:
        return _fail(error.format_message().rstrip(".") + ".", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted.", 130)
    except BrokenPipeError:
        # whoever read our output has gone; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # typer turns Ctrl-C inside a command into this code.
    if code == 130:
        return _fail("interrupted.", 130)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the `rhapsode` command."""
    sys.exit(run(sys.argv[1:]))


def _say_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    """Print what is warned of, and not where in the code."""
    print(f"warning: {message}", file=sys.stderr)


def _fail(sentence: str, code: int) -> int:
    print(f"rhapsode: {sentence}", file=sys.stderr)
    return code
