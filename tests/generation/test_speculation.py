"""Exact decoding gives the ids of plain decoding, whatever is drafted; drafts are accounted for honestly."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.errors import StateError
from rhapsode.generation import Generation, GenerationConfig, generate
from rhapsode.generation.compiled import weights
from rhapsode.generation.compiled.decoding import build_exact_decoding
from rhapsode.generation.drafting.config import PhaseConfig
from rhapsode.generation.drafting.drafter import Drafter, DraftSession
from rhapsode.generation.drafting.phases import Draft
from rhapsode.generation.sampling import filter_logits
from rhapsode.generation.speculation import ExactDecoding, PlainDecoding
from rhapsode.generation.stepper import Stepper
from rhapsode.memory.knn_memory import KNNMemory
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.models.decoder import Decoder
from rhapsode.models.gate import Gate, num_features
from rhapsode.models.mixture import Mixture
from rhapsode.text.bytes_tokenizer import BytesTokenizer

MakeModel = Callable[..., Decoder]
MakeSpeaker = Callable[[list[int]], Decoder]
Guess = Callable[[list[int], int], list[int]]
RECIPES: dict[str, dict[str, Any]] = {
    "attention": {},
    "sliding": {"mix": "sliding sliding attention", "num_layers": 3, "attention": {"window": 5}},
    "learned": {"attention": {"positions": "learned"}},
    "ngrams": {"hashed_ngrams": {"num_buckets": 64, "orders": (2, 3, 4), "dim": 8}},
    "recurrent": {"mix": "gla attention"},
    "gpt": {"embed": "table", "predict": "tied", "attention": {"positions": "learned"}, "embed_norm": False},
}


class GuessSession(DraftSession):
    """Drafts what a function of the text so far and of the room says."""

    guess: Guess

    def draft(self, most: int) -> list[int]:
        ids = self.guess(self._ids[: self._length].tolist(), most)[:most]
        self._draft = Draft(np.array(ids, np.int64), np.ones(len(ids)), np.zeros(len(ids), np.int64))
        return ids


class GuessDrafter(Drafter):
    def __init__(self, guess: Guess) -> None:
        super().__init__()
        self.guess = guess

    def begin(self, *args: Any) -> DraftSession:
        session = super().begin(*args)
        session.__class__ = GuessSession
        session.guess = self.guess  # type: ignore[attr-defined]
        return session


def guesses(text: list[int], prompt_size: int) -> dict[str, Guess]:
    """Drafters that are right, wrong, right by half, or random; `text` is what plain decoding gives."""
    rng = np.random.default_rng(0)

    def right(ids: list[int], most: int) -> list[int]:
        done = len(ids) - prompt_size
        return text[done : done + 7]

    def half(ids: list[int], most: int) -> list[int]:
        return [token if rng.random() < 0.7 else 5 for token in right(ids, most)]

    return {
        "right": right,
        "wrong": lambda ids, most: [(token + 1) % 259 for token in right(ids, most)] or [3],
        "half": half,
        "random": lambda ids, most: rng.integers(0, 259, rng.integers(0, 6)).tolist(),
        "long": lambda ids, most: rng.integers(0, 259, 200).tolist(),
    }


def run(model: Decoder, drafter: Drafter | None = None, prompt: str = "a prompt", **settings: Any) -> Generation:
    mixture = settings.pop("mixture", None)
    values = {"max_new_tokens": 40, "temperature": 0.0, "decode": "plain" if drafter is None else "exact", **settings}
    config = GenerationConfig.model_validate(values)
    return generate(model, BytesTokenizer(), prompt, config, start_with_bos=True, drafter=drafter, mixture=mixture)


SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "penalty": {"repetition_penalty": 1.3},
    "sampled": {"temperature": 0.8, "seed": 3},
    "all": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 4},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_exact_gives_the_ids_of_plain_whatever_is_drafted(make_model: MakeModel, recipe: str, sampler: str) -> None:
    model = make_model(seed=4, **RECIPES[recipe])
    plain = run(model, **SAMPLERS[sampler])
    for name, guess in guesses(list(plain.ids), plain.prompt_tokens).items():
        exact = run(model, GuessDrafter(guess), **SAMPLERS[sampler])
        assert (exact.ids, exact.text, exact.finish_reason) == (plain.ids, plain.text, plain.finish_reason), name
        if name == "right" and RECIPES[recipe].get("attention", {}).get("positions") != "learned":
            assert exact.acceptance == 1
            assert exact.tokens_per_forward > 2
        if name == "wrong":
            assert exact.acceptance == 0
            assert exact.tokens_per_forward <= 1
    exact = run(model, Drafter(), **SAMPLERS[sampler])
    assert exact.ids == plain.ids


@pytest.mark.parametrize("recipe", ["attention", "learned", "ngrams"])
@pytest.mark.parametrize("sampler", ["greedy", "penalty", "sampled"])
def test_exact_gives_the_ids_of_plain_by_pytorch_too(
    make_model: MakeModel, recipe: str, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # no model is small enough for the compiled pass.
    monkeypatch.setattr(weights, "MAX_NUMBERS", 0)
    test_exact_gives_the_ids_of_plain_whatever_is_drafted(make_model, recipe, sampler)


@pytest.mark.parametrize("phases", [{}, {"coherent": "viterbi"}, {"sharpen": False}, {"coherent": "none"}])
def test_no_phase_changes_the_text(make_model: MakeModel, phases: dict[str, Any]) -> None:
    model = make_model(seed=1)
    drafter = Drafter(np.array([*b"some text that repeats, some text that repeats"] * 4), PhaseConfig(**phases))
    for prompt in ("x", "abcabcabcabcab"):
        assert run(model, drafter, prompt, max_new_tokens=60).ids == run(model, prompt=prompt, max_new_tokens=60).ids


def test_memories_have_their_say_at_every_position(make_model: MakeModel) -> None:
    model = make_model(seed=2)
    memories = [NgramMemory.empty(259, 4), KNNMemory(259, 32)]
    memories[0].learn(1, np.frombuffer(b"a prompt that was taught, to be gone on with", dtype=np.uint8) + 3)
    mixture = Mixture(memories, Gate("linear", (np.zeros((3, num_features(2))),), min_match_length=1))
    for sampler in SAMPLERS.values():
        plain = run(model, mixture=mixture, **sampler)
        for guess in guesses(list(plain.ids), plain.prompt_tokens).values():
            assert run(model, GuessDrafter(guess), mixture=mixture, **sampler).ids == plain.ids
    assert run(model).ids != run(model, mixture=mixture).ids


@pytest.mark.parametrize("stop", [(), ("ef",), ("h",)])
def test_an_end_inside_an_accepted_draft_ends_there(make_speaker: MakeSpeaker, stop: tuple[str, ...]) -> None:
    tokenizer = BytesTokenizer()
    text = [*tokenizer.encode("bcdefgh").tolist(), tokenizer.eos_id]
    model = make_speaker([*tokenizer.encode("a").tolist(), *text])
    plain = run(model, prompt="a", stop=stop)
    exact = run(model, GuessDrafter(guesses([*text, 40, 41, 42], 2)["right"]), "a", stop=stop)
    assert (exact.ids, exact.text, exact.finish_reason) == (plain.ids, plain.text, "stop")
    assert exact.tokens_per_forward > 1


@pytest.mark.parametrize("limit", range(1, 10))
def test_no_more_ids_come_than_are_asked_for(make_model: MakeModel, limit: int) -> None:
    model = make_model()
    plain = run(model, max_new_tokens=limit)
    guess = guesses([*plain.ids, *[9] * 9], plain.prompt_tokens)["right"]
    exact = run(model, GuessDrafter(guess), max_new_tokens=limit)
    assert exact.ids == plain.ids
    assert len(exact.ids) == limit


def test_ties_are_decided_as_plain_decoding_does(make_model: MakeModel) -> None:
    # pairs of ids have equal rows in the head, so that every choice is a tie that only the same bits can decide.
    model = make_model(seed=3)
    with torch.no_grad():
        model.head.linear.weight[3::2] = model.head.linear.weight[2:-1:2]
        model.head.linear.weight[3::2] *= 1 + 1e-7
    for sampler in ({}, {"temperature": 0.7, "seed": 1}):
        plain = run(model, max_new_tokens=60, **sampler)
        guess = guesses(list(plain.ids), plain.prompt_tokens)["right"]
        exact = run(model, GuessDrafter(guess), max_new_tokens=60, **sampler)
        assert exact.ids == plain.ids


@pytest.mark.parametrize("recipe", RECIPES)
def test_rewinding_leaves_what_was_kept(make_model: MakeModel, recipe: str) -> None:
    model = make_model(seed=5, **RECIPES[recipe])
    rng = np.random.default_rng(0)
    text = rng.integers(2, 259, 40).tolist()
    one, several = Stepper(model), Stepper(model)
    one.feed(text[:6])
    several.feed(text[:6])
    done = 6
    while done < 30:
        count = int(rng.integers(1, 6))
        room = several.room
        count = count if room is None else max(1, min(count, room))
        keep = int(rng.integers(1, count + 1))
        wrong = [*text[done : done + keep], *rng.integers(2, 259, count - keep).tolist()]
        logits = several.read(wrong)
        several.rewind(keep)
        for place in range(keep):
            assert torch.allclose(one.feed([text[done + place]]), logits[place], atol=1e-4)
        done += keep
        assert one.room == several.room


@pytest.mark.parametrize(
    "sampler",
    [{"top_k": 4, "top_p": 0.9, "temperature": 4.0}, {"top_k": 0, "top_p": 1.0, "min_p": 0.1, "temperature": 2.0}],
)
def test_sampled_ids_have_the_models_distribution(make_model: MakeModel, sampler: dict[str, Any]) -> None:
    model = make_model(seed=6, logit_soft_cap=0.0)
    values = {"max_new_tokens": 3, "decode": "exact", **sampler}
    config = GenerationConfig.model_validate(values)
    prompt = [1, 70, 80]

    @lru_cache
    def logits_after(*ids: int) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([ids]))[0][0, -1, 2:]

    # the draft is always the likeliest id, which sampling must accept as often as the model has it.
    drafter = GuessDrafter(lambda ids, most: [int(logits_after(*ids).argmax()) + 2])
    counts: dict[int, np.ndarray] = {}
    accepted = 0
    for seed in range(700):
        decoding = build_exact_decoding(model, prompt, config, torch.Generator().manual_seed(seed), drafter=drafter)
        first, second = [*decoding.step(), *decoding.step()][:2]
        counts.setdefault(first, np.zeros(257))[second - 2] += 1
        accepted += decoding.accepted
    assert 30 < accepted < 670
    for first, found in counts.items():
        ranked, places = filter_logits(logits_after(*prompt, first), config)
        expected = np.zeros(257)
        expected[np.arange(257) if places is None else places.numpy()] = ranked.softmax(-1).numpy()
        assert chi_squared_is_usual(found, expected)


def chi_squared_is_usual(found: np.ndarray, expected: np.ndarray) -> bool:
    """Pearson's test, cells of fewer than five expected put together; the bound is 4.5 deviations of the statistic."""
    total = found.sum()
    if total < 20:
        return True
    assert (expected[found > 0] > 0).all()
    large = expected * total >= 5
    observed = np.append(found[large], found[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum()) * total
    observed, wanted = observed[wanted > 0], wanted[wanted > 0]
    freedom = len(wanted) - 1
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    return statistic < freedom + 4.5 * (2 * max(1, freedom)) ** 0.5


def test_the_test_of_distributions_notices_another_one() -> None:
    rng = np.random.default_rng(0)
    expected = rng.dirichlet(np.ones(20))
    assert chi_squared_is_usual(rng.multinomial(2000, expected).astype(float), expected)
    assert not chi_squared_is_usual(rng.multinomial(2000, (expected + 0.05) / 2).astype(float), expected)


def test_drafts_as_text_come_in_one_pass_with_their_loss(make_model: MakeModel) -> None:
    model = make_model(seed=1)
    drafter = Drafter(np.array(BytesTokenizer().encode("a prompt goes on like this and like this. " * 5)))
    result = run(model, drafter, decode="draft", max_new_tokens=10)
    assert result.text == " goes on l"
    assert result.tokens_per_forward == 10
    ids = [1, *BytesTokenizer().encode("a prompt").tolist(), *result.ids]
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0][0, -11:-1]
    losses = -logits.log_softmax(-1).gather(1, torch.tensor(result.ids)[:, None])
    assert result.draft_loss == pytest.approx(float(losses.mean()), abs=1e-4)
    assert result.differing == int((logits[:, 2:].argmax(-1) + 2 != torch.tensor(result.ids)).sum())
    assert result.acceptance == pytest.approx(1 - result.differing / 10)


@pytest.mark.parametrize("recipe", ["attention", "learned"])
def test_where_no_source_knows_more_the_model_goes_on(make_model: MakeModel, recipe: str) -> None:
    model = make_model(**RECIPES[recipe])
    result = run(model, Drafter(), "xyz", decode="draft", max_new_tokens=30)
    assert len(result.ids) == 30
    assert result.ids[0] == run(model, prompt="xyz").ids[0]


def test_a_prepared_state_of_the_decoder_stands_before_the_prompt(make_model: MakeModel) -> None:
    model = make_model()
    with torch.no_grad():
        _, state = model(torch.tensor([[1, 50, 60, 70]]))
    config = GenerationConfig(temperature=0, max_new_tokens=12)
    whole = PlainDecoding(model, [1, 50, 60, 70, 80], config, torch.Generator())
    wanted = [whole.step()[0] for _ in range(12)]
    for build in (ExactDecoding, build_exact_decoding):
        decoding = build(model, [80], config, torch.Generator(), context=state, drafter=Drafter())
        found: list[int] = []
        while len(found) < 12:
            found += decoding.step()
        assert found[:12] == wanted


def test_a_damaged_model_is_an_error_of_exact_decoding_too(make_model: MakeModel) -> None:
    model = make_model()
    with torch.no_grad():
        model.head.linear.weight[40] = float("nan")
    for temperature in (0.0, 0.8):
        with pytest.raises(StateError, match=r"^the model's logits must be finite; got nan\."):
            run(model, Drafter(), temperature=temperature)
