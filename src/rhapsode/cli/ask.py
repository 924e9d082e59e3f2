"""rhapsode ask"""

from typing import Annotated, Any

import typer

from rhapsode.cli import options
from rhapsode.cli.output import print_json


def ask(
    run: options.Run,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What you want to know.")],
    k: Annotated[int, typer.Option("--k", help="Memories to show.")] = 5,
    min_confidence: Annotated[
        float | None,
        typer.Option("--min-confidence", help="Answer from this confidence on, 0 to 1; default calibrated."),
    ] = None,
    space: options.Space = "default",
    json: options.Json = False,
) -> None:
    """Answer from what a run was taught, with the memories used, or say that it does not know."""
    from rhapsode import api

    with api.open_memory(run) as memory:
        result = memory.ask(question, k=k, min_confidence=min_confidence, space=space)
    (print_json if json else print_answer)(result)


def print_answer(result: dict[str, Any]) -> None:
    """Print an answer for people."""
    if result["abstained"]:
        print("I don't know.")
    else:
        print(result["answer"])
    state = "" if result["calibrated"] else ", uncalibrated"
    print(f"confidence {result['confidence']:.2f} (threshold {result['threshold']:.2f}{state}), {result['ms']:.1f} ms")
    for source in result["sources"]:
        mark = "*" if source["used"] else " "
        label = f"  [{source['source']}]" if source["source"] else ""
        print(f"{mark} {source['id']:>6}  {source['score']:.2f}  {shorten(source['text'])}{label}")


def shorten(text: str, limit: int = 90) -> str:
    """Return a text on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
