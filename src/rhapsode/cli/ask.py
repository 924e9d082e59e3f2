"""rhapsode ask"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json
from rhapsode.errors import UserError


def ask(
    run: options.Run,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="What you want to know; - reads standard input.")
    ] = None,
    file: Annotated[str | None, typer.Option("--file", help="Questions instead, one a line.")] = None,
    k: Annotated[int, typer.Option("--k", help="Memories to show.")] = 5,
    min_confidence: Annotated[
        float | None,
        typer.Option("--min-confidence", help="Answer from this confidence on, 0 to 1; default calibrated."),
    ] = None,
    space: options.Space = "default",
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="NAME=VALUE", help="Answer only from memories with this metadata; may be repeated."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Answer from what a run was taught, with the memories used, or say that it does not know."""
    if (question is None) == (file is None):
        raise UserError("QUESTION must be given, or --file with one question a line, and not both.")
    filters = options.read_pairs(where, "--where") or None
    from rhapsode import api

    questions = [sys.stdin.read() if question == "-" else str(question)] if file is None else _read_questions(file)
    with api.open_memory(run, asking=True) as memory:
        answers = (memory.ask(one, k=k, min_confidence=min_confidence, space=space, where=filters) for one in questions)
        if file is None:
            (print_json if json else print_answer)(next(answers))
        elif json:
            print_json({"run": run, "file": file, "answers": list(answers)})
        else:
            for answer in answers:
                print(f"> {answer.question}")
                print_answer(answer)


def _read_questions(path: str) -> list[str]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--file must be a readable file; got {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--file must be UTF-8 text; {path} is not, at byte {error.start}.") from None
    questions = [line for line in text.split("\n") if line.strip()]
    if not questions:
        raise UserError(f"--file must hold a question; got {path}, which holds none.")
    return questions


def print_answer(result: dict[str, Any]) -> None:
    """Print an answer for people."""
    if result["abstained"]:
        print("I don't know.")
    else:
        print(result["answer"])
    origin = {"given": ", given", "shipped": ", uncalibrated"}.get(result["threshold_from"], "")
    print(f"confidence {result['confidence']:.2f} (threshold {result['threshold']:.2f}{origin}), {result['ms']:.1f} ms")
    for source in result["sources"]:
        mark = "*" if source["used"] else " "
        label = f"  [{source['source']}]" if source["source"] else ""
        print(f"{mark} {source['id']:>6}  {source['score']:.2f}  {shorten(source['text'])}{label}")


def shorten(text: str, limit: int = 90) -> str:
    """Return a text on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
