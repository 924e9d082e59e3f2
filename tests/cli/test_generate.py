"""rhapsode generate and chat: one prompt, many, standard input, and a conversation."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rhapsode import api
from rhapsode.errors import StateError
from rhapsode.generation.engine import Stream

from .conftest import Command

PROMISED = {"text", "tokens", "tokens_per_s", "time_to_first_token_s", "truncated"}
SPEED = r"{n} tokens in \d+\.\d\d s, [0-9,]+ tokens/s, first after \d+ ms"


@pytest.fixture(scope="session")
def model(finished: Path) -> api.Model:
    return api.load(finished)


def test_the_text_goes_to_standard_output_alone(command: Command, finished: Path, model: api.Model) -> None:
    expected = model.generate("ab", max_new_tokens=12, seed=3)
    done = command("generate", finished, "--prompt", "ab", "--max-new-tokens", 12, "--seed", 3)
    assert (done.code, done.out) == (0, expected.text + "\n")
    assert re.fullmatch(SPEED.format(n=expected.tokens) + "\n", done.err)
    again = command("generate", finished, "--prompt", "ab", "--max-new-tokens", 12, "--seed", 3)
    assert again.out == done.out


def test_json(command: Command, finished: Path) -> None:
    done = command("generate", finished, "--prompt", "ab", "--json")
    assert done.err == ""
    (line,) = done.out.splitlines()
    result = json.loads(line)
    assert result.keys() >= PROMISED
    assert result["truncated"] == 0
    assert 0 < result["time_to_first_token_s"] <= result["latency_s"]
    assert result["tokens"] == len(result["ids"])


def test_a_prompt_that_is_cut_says_so(command: Command, finished: Path) -> None:
    done = command("generate", finished, "--prompt", "x" * 40, "--truncate")
    assert done.code == 0
    assert done.err.endswith("; 25 tokens of the prompt were cut\n")
    assert (
        json.loads(command("generate", finished, "--prompt", "x" * 40, "--truncate", "--json").out)["truncated"] == 25
    )


def test_flags_are_settings(command: Command, finished: Path, model: api.Model) -> None:
    settings: dict[str, Any] = {
        "max_new_tokens": 9,
        "temperature": 1.3,
        "top_k": 7,
        "top_p": 0.7,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "seed": 8,
    }
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert command("generate", finished, "--prompt", "ab", *words).out == model.generate("ab", **settings).text + "\n"
    words = ["--stop", "a", "--stop", "e", "--max-new-tokens", 40, "--temperature", 2, "--top-p", 1, "--top-k", 0]
    done = command("generate", finished, "--prompt", "ab", *words)
    assert not {"a", "e"} & set(done.out.rstrip("\n"))


def test_the_prompt_may_come_from_standard_input(
    command: Command, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = command("generate", finished, "--prompt", "ab cd")
    monkeypatch.setattr(sys, "stdin", io.StringIO("ab cd"))
    assert command("generate", finished, "--prompt", "-").out == expected.out


def test_many_prompts_come_back_in_order(
    command: Command, finished: Path, model: api.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["ab", "é", "", "a\u2028b\x0bc", "zz"]
    (tmp_path / "in.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    done = command("generate", finished, "--input", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl")
    assert (done.code, done.out, done.err) == (0, "", "")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert [row["prompt"] for row in rows] == prompts
    assert [row["text"] for row in rows] == [model.generate(prompt).text for prompt in prompts]
    assert all(row.keys() >= PROMISED for row in rows)
    # what was written can be read again, and gives the same.
    done = command("generate", finished, "--input", tmp_path / "out.jsonl")
    again = [json.loads(line) for line in done.out.split("\n")[:-1]]
    assert [(row["prompt"], row["text"]) for row in again] == [(row["prompt"], row["text"]) for row in rows]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(prompts)))
    done = command("generate", finished, "--input", "-", "--json")
    assert [json.loads(line)["text"] for line in done.out.split("\n")[:-1]] == [row["text"] for row in rows]


# --- chat --------------------------------------------------------------------------------------------------------

Typed = Callable[..., None]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Say what a person types; after the last line comes the end of input."""

    def type_lines(*lines: str | type[BaseException]) -> None:
        waiting: Iterator[str | type[BaseException]] = iter(lines)

        def read(prompt: str = "") -> str:
            assert prompt == "> "
            line = next(waiting, EOFError)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("builtins.input", read)

    return type_lines


def test_a_conversation(command: Command, finished: Path, model: api.Model, typed: Typed) -> None:
    typed("stats", "", "ab", "set temperature 0", "ab", "set max_new_tokens=3", "ab", "stats", "quit", "never read")
    done = command("chat", finished)
    assert done.code == 0
    expected = [
        "nothing was generated yet.",
        model.generate("ab").text,
        "temperature = 0.0",
        model.generate("ab", temperature=0.0).text,
        "max_new_tokens = 3",
        model.generate("ab", temperature=0.0, max_new_tokens=3).text,
    ]
    head = "\n".join(expected) + "\n"
    assert done.out.startswith(head)
    pattern = r"3 tokens, [0-9,]+ tokens/s, \d+\.\d\d s, first after \d+ ms, prompt of 3 tokens\n"
    assert re.fullmatch(pattern, done.out.removeprefix(head))
    parameters = model.decoder.num_parameters()
    assert done.err == f"{finished}: {parameters:,} parameters. help for help, quit to leave.\n"


def test_help_shows_commands_and_settings(command: Command, finished: Path, typed: Typed) -> None:
    typed("set seed 4", "help", "exit")
    lines = command("chat", finished).out.splitlines()
    assert lines[0] == "seed = 4"
    assert lines[1] == "type text to continue it, or:"
    assert "  seed = 4" in lines
    assert "  temperature = 0.8" in lines


def test_nothing_wrong_ends_a_conversation(command: Command, finished: Path, model: api.Model, typed: Typed) -> None:
    typed("set temperature hot", "set warmth 3", "set top_p 7", "x" * 40, "set", "quit now", "ab")
    done = command("chat", finished)
    assert done.code == 0
    errors = done.err.splitlines()[1:]
    assert len(errors) == 4
    assert errors[0].startswith("generation.temperature must be a valid number")
    assert errors[1].startswith("the setting generation.warmth must be one of ")
    assert errors[2] == "generation.top_p must be less than or equal to 1; got 7."
    assert errors[3].startswith("the prompt must fit the model's context of 16 tokens; got 41 tokens.")
    # a line that only looks like a command is a prompt.
    assert done.out == "".join(model.generate(prompt).text + "\n" for prompt in ("set", "quit now", "ab"))


def test_ctrl_c_while_typing_leaves_and_while_answering_does_not(
    command: Command, finished: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("ab", KeyboardInterrupt)
    interrupted = []

    def interrupt(self: Stream) -> None:
        interrupted.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Stream, "__next__", interrupt)
    done = command("chat", finished)
    assert len(interrupted) == 1
    assert (done.code, done.out) == (130, "\n")
    assert done.err.splitlines()[-1] == "rhapsode: interrupted."


def test_a_terminal_without_a_prompt_is_a_conversation(
    command: Command, finished: Path, model: api.Model, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    typed("ab")
    done = command("generate", finished, "--temperature", 0, "--max-new-tokens", 5)
    assert (done.code, done.out) == (0, model.generate("ab", temperature=0, max_new_tokens=5).text + "\n")
    done = command("generate", finished, "--temperature", -1)
    assert (done.code, done.out) == (2, "")
    assert done.err == "rhapsode: generation.temperature must be greater than or equal to 0; got -1.0.\n"


def test_a_failure_while_answering_is_told(
    command: Command, finished: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Stream) -> None:
        raise StateError("the model's logits are not finite.")

    monkeypatch.setattr(Stream, "__next__", fail)
    typed("ab", "stats")
    done = command("chat", finished)
    assert (done.code, done.out) == (0, "nothing was generated yet.\n")
    assert done.err.splitlines()[-1] == "the model's logits are not finite."


def test_reading_a_model_does_not_import_the_compiler(finished: Path) -> None:
    script = (
        "import sys; from rhapsode.cli import run\n"
        f"assert run(['generate', {str(finished)!r}, '--prompt', 'ab']) == 0\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
