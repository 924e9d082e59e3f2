"""rhapsode generate --decode: the same text, in fewer passes, and what it says about itself."""

import json
from pathlib import Path

import pytest

from rhapsode import api
from rhapsode.errors import UserError

from .conftest import Command

ARGUMENTS = ("--prompt", "ab ab ab ab ab", "--max-new-tokens", 40, "--json")


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize("memory", [(), ("--memory",)])
def test_exact_prints_what_plain_prints(
    command: Command, finished: Path, temperature: float, memory: tuple[str, ...]
) -> None:
    plain, exact = (
        json.loads(
            command("generate", finished, *ARGUMENTS, *memory, "--temperature", temperature, "--decode", decode).out
        )
        for decode in ("plain", "exact")
    )
    assert exact["text"] == plain["text"]
    assert exact["ids"] == plain["ids"]
    assert (plain["decode"], plain["tokens_per_forward"], plain["acceptance"]) == ("plain", 1.0, None)
    assert exact["decode"] == "exact"
    assert exact["tokens_per_forward"] > 0
    assert exact["tokens_per_s"] > 0
    assert exact["draft_loss"] is None


def test_a_draft_says_what_it_loses(command: Command, finished: Path) -> None:
    done = command("generate", finished, "--prompt", "ab", "--decode", "draft", "--max-new-tokens", 20)
    assert done.code == 0
    assert "tokens a pass" in done.err
    assert "; lossy: " in done.err
    assert "nats a drafted token" in done.err


def test_a_model_keeps_one_drafter(finished: Path) -> None:
    model = api.load(finished)
    assert model.drafter is model.drafter
    chunks = model.stream("ab ab ab", decode="exact", temperature=0, max_new_tokens=30)
    assert "".join(chunk.text for chunk in chunks) == model.generate("ab ab ab", temperature=0, max_new_tokens=30).text


def test_an_unknown_way_is_refused(command: Command, finished: Path) -> None:
    done = command("generate", finished, "--prompt", "ab", "--decode", "parallel")
    assert done.code == 2
    assert "generation.decode must be" in done.err
    with pytest.raises(UserError, match=r"generation\.decode must be"):
        api.load(finished).generate("ab", decode="parallel")
