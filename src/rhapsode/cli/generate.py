"""rhapsode generate"""

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from rhapsode.cli import options
from rhapsode.cli.output import describe_decoding, print_json, say
from rhapsode.errors import StateError, UserError


def generate(
    run: options.Run,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text to continue; - reads standard input.")] = None,
    input_file: Annotated[
        str | None, typer.Option("--input", help="File of prompts, one a line, text or JSON with a prompt entry.")
    ] = None,
    output_file: Annotated[
        str | None, typer.Option("--output", help="Write one JSON line a prompt here instead of standard output.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="Most tokens to generate.")] = 50,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", help="Sample from this many tokens; 0 from all.")] = 50,
    top_p: Annotated[float, typer.Option("--top-p", help="Sample from the likeliest tokens of this mass.")] = 0.9,
    min_p: Annotated[float, typer.Option("--min-p", help="Least probability, over the likeliest one's.")] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="Above 1, tokens seen before become less likely.")
    ] = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this string; may be repeated.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same text.")] = 0,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut the beginning of a prompt that is longer than the context.")
    ] = False,
    context: Annotated[
        str, typer.Option("--context", help="Read the prompt as ids, or as one bundle by a model that streams.")
    ] = "ids",
    decode: options.Decode = "plain",
    memory: options.UseMemory = False,
    space: options.Space = "default",
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Continue a prompt, or every prompt of a file; without one, on a terminal, chat."""
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": tuple(stop or ()),
        "seed": seed,
        "truncate": truncate,
        "context": context,
        "decode": decode,
    }
    if prompt is not None and input_file is not None:
        raise UserError("--prompt and --input must not be given together. Leave one of them out.")
    if output_file is not None and input_file is None:
        raise UserError("--output must come with --input, a file of prompts.")
    if prompt is None and input_file is None:
        if sys.stdin.isatty() and not json:
            from rhapsode.cli.chat import converse

            converse(run, settings, device, memory=memory, space=space)
            return
        raise UserError("--prompt must be given, or --input with a file of prompts.")
    from rhapsode import api

    model = api.load(run, device=device or "auto")
    settings |= {"memory": memory, "space": space}
    if input_file is not None:
        _many(model, input_file, output_file, settings)
        return
    assert prompt is not None
    prompt = sys.stdin.read() if prompt == "-" else prompt
    if json:
        print_json(asdict(model.generate(prompt, **settings)))
        return
    stream = model.stream(prompt, **settings)
    for chunk in stream:
        print(chunk.text, end="", flush=True)
    print()
    done = stream.generation
    assert done is not None
    say(
        f"{done.tokens} tokens in {done.latency_s:.2f} s, {done.tokens_per_s:,.0f} tokens/s, "
        f"first after {done.time_to_first_token_s * 1000:.0f} ms"
        + describe_decoding(done)
        + (f"; {done.truncated} tokens of the prompt were cut" if done.truncated else "")
    )


def _many(model: Any, input_file: str, output_file: str | None, settings: dict[str, Any]) -> None:
    prompts = _read_prompts(input_file)
    lines = (
        json_module.dumps({"prompt": prompt, **asdict(model.generate(prompt, **settings))}, ensure_ascii=False)
        for prompt in prompts
    )
    if output_file is None:
        for line in lines:
            print(line, flush=True)
        return
    try:
        with open(output_file, "w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
    except OSError as error:
        raise StateError(f"--output must be writable; got {output_file}: {error.strerror}.") from None


def _read_prompts(path: str) -> list[str]:
    """One prompt a line: plain text, or JSON with a `prompt` entry in a .jsonl file."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--input must be a readable file; got {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--input must be UTF-8 text; {path} is not, at byte {error.start}.") from None
    # a line ends at a newline only: splitlines also cuts at characters that JSON leaves inside a string.
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise UserError(f"--input must hold at least one prompt; got {path}, which is empty.")
    if not path.endswith(".jsonl"):
        return lines
    prompts = []
    for number, line in enumerate(lines, 1):
        try:
            prompts.append(str(json_module.loads(line)["prompt"]))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"--input must hold JSON objects with a prompt; {path} line {number} is not.") from None
    return prompts
