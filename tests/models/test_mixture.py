"""A mixture against its parts: step by step, over a text, with closed gates, and fitted on calibration text."""

from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.errors import UserError
from rhapsode.memory.knn_memory import KNNMemory
from rhapsode.memory.ngram_memory import NgramMemory
from rhapsode.memory.token_contracts import AnyTokenMemory
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.models.gate import FORMS, KINDS, Gate, num_features
from rhapsode.models.mixture import Mixture, calibrate, collect_vectors, read_beside
from rhapsode.models.scoring import score_tokens
from rhapsode.text.shards import TokenArray

VOCAB, WIDTH, SEQ_LEN = 20, 16, 8


def make_model(**settings: Any) -> Decoder:
    """A random model without a zero weight."""
    values = {"vocab_size": VOCAB, "width": WIDTH, "num_layers": 2, "num_heads": 2, "seq_len": SEQ_LEN, **settings}
    model = build_decoder(ModelConfig.model_validate({"hashed_ngrams": {"num_buckets": 64}, **values}), 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model


def make_tokens(seed: int, length: int) -> TokenArray:
    """Ids of which three of four go up by one."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(length) < 0.75, 1, rng.integers(0, VOCAB, length))
    return TokenArray((np.cumsum(steps) % VOCAB).astype(np.uint16), np.zeros(1, dtype=np.int64), length)


def make_gate(kind: str, num_memories: int, min_match_length: int = 1) -> Gate:
    rng = np.random.default_rng(1)
    shape = (num_memories + 1, num_features(num_memories))
    return Gate(kind, tuple(rng.normal(size=shape) * 0.2 for _ in FORMS[kind]), min_match_length)


def make_memories() -> list[AnyTokenMemory]:
    ngram = NgramMemory.fit(make_tokens(5, 300).ids, VOCAB, 4)
    return [ngram, KNNMemory(VOCAB, WIDTH)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learns", [False, True])
def test_a_text_is_scored_as_step_by_step(kind: str, learns: bool) -> None:
    model, tokens = make_model(), make_tokens(1, 40)
    mixture = Mixture(make_memories(), make_gate(kind, 2))
    scores = mixture.score(model, tokens, learn_as=(1, 1) if learns else (), stride=SEQ_LEN)
    nats = score_tokens(model, tokens, stride=SEQ_LEN)
    # batches of another shape use other float32 kernels.
    np.testing.assert_allclose(scores.model, -nats, atol=1e-5)
    ids = tokens.ids.astype(np.int64)
    vectors = []
    for begin in range(0, 39, SEQ_LEN):
        window = torch.from_numpy(ids[None, max(0, min(begin, 39 - SEQ_LEN)) :][:, :SEQ_LEN])
        with torch.no_grad():
            hidden = model.hidden(window)[0][0]
        vectors.append(hidden.numpy()[-min(SEQ_LEN, 39 - begin) :])
    hidden = np.concatenate(vectors)
    for i in range(1, 40, 3):
        plain = Mixture(make_memories(), mixture.gate)
        if learns:
            for memory in plain.memories:
                memory.learn(1, ids[:i], hidden[:i])
        states = plain.start(ids[:0], hidden[:0])
        for token, vector in zip(ids[:i].tolist(), hidden[:i], strict=True):
            states = plain.advance(states, token, vector)
        with torch.no_grad():
            logits = model.logits(torch.from_numpy(hidden[i - 1]))
        mixed = plain.mix(logits, states)
        assert mixed.dtype == torch.float32
        assert float(mixed.exp().sum()) == pytest.approx(1, abs=1e-5)
        assert float(mixed[ids[i]]) == pytest.approx(scores.mixture[i - 1], abs=1e-3)


@pytest.mark.parametrize("learns", [False, True])
def test_a_mixture_on_a_mixture_is_scored_as_step_by_step(learns: bool) -> None:
    model, tokens = make_model(), make_tokens(1, 30)

    def stack() -> Mixture:
        one, other = make_memories()
        return Mixture([one], make_gate("linear", 1, min_match_length=2), Mixture([other], make_gate("both", 1)))

    mixture = stack()
    scores = mixture.score(model, tokens, learn_as=(4, 1) if learns else (), stride=SEQ_LEN)
    ids = tokens.ids.astype(np.int64)
    with torch.no_grad():
        hidden = model.hidden(torch.from_numpy(ids[None, :SEQ_LEN]))[0][0].numpy()
    for i in range(1, SEQ_LEN, 2):
        plain = stack()
        for memory, row in zip(plain.memories, (4, 1), strict=True):
            if learns:
                memory.learn(row, ids[:i], hidden[:i])
        with torch.no_grad():
            logits = model.logits(torch.from_numpy(hidden[i - 1]))
        # where both gates are closed these are the model's logits, which have no sum to keep to.
        mixed = torch.log_softmax(plain.mix(logits, plain.start(ids[:i], hidden[:i])), dim=-1)
        assert float(mixed[ids[i]]) == pytest.approx(scores.mixture[i - 1], abs=1e-3)


def test_a_gate_on_a_mixture_adds_to_it() -> None:
    model, memories, tokens = make_model(), make_memories(), make_tokens(2, 1500)
    beneath = Mixture(memories[:1], calibrate(model, memories[:1], tokens))
    gate = calibrate(model, memories[1:], tokens, kind="linear", learn_as=(None, 7), beneath=beneath)
    other = make_tokens(3, 1000)
    alone = beneath.score(model, other).mixture.mean()
    assert Mixture(memories[1:], gate, beneath).score(model, other, learn_as=(None, 7)).mixture.mean() > alone - 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_gate_hands_on_the_same_tensor(kind: str) -> None:
    mixture = Mixture([NgramMemory.fit(np.arange(10), VOCAB, 4)], make_gate(kind, 1, min_match_length=2))
    logits = torch.randn(VOCAB)
    before = logits.clone()
    for context, closed in (([3, 15], True), ([15, 3], True), ([2, 3], False), ([], True)):
        mixed = mixture.mix(logits, mixture.start(np.array(context, dtype=np.int64)))
        assert (mixed is logits) == closed
        assert torch.equal(logits, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learns", [False, True])
def test_a_fitted_gate_beats_the_model_and_the_memories_alone(kind: str, learns: bool) -> None:
    model, memories = make_model(), make_memories()
    learn_as = (7, 7) if learns else (None, None)
    gate = calibrate(model, memories, make_tokens(2, 1500), kind=kind, learn_as=learn_as)
    assert gate.kind == kind
    assert all(memory.row_ids == () for memory in memories)
    tokens = make_tokens(3, 1500)
    scores = Mixture(memories, gate).score(model, tokens, learn_as=learn_as)
    for memory in memories:
        if learns:
            memory.forget(7)
    alone = memories[0].score(tokens.ids, learn_as=7 if learns else None).log_probs[1:]
    # three ids of four can be known, the fourth is one of twenty: 0.25 ln 20 + 0.56 nats at best.
    assert scores.mixture.mean() > max(scores.model.mean(), alone.mean()) - 0.02
    assert scores.mixture.mean() > scores.model.mean() + 0.5


def test_a_gate_that_learns_goes_on_from_where_it_was() -> None:
    model, tokens = make_model(), make_tokens(3, 600)
    mixture = Mixture(make_memories(), make_gate("both", 2))
    still = mixture.score(model, tokens)
    learning = mixture.score(model, tokens, rate=5.0)
    assert still.gate is mixture.gate
    assert learning.mixture[0] == pytest.approx(still.mixture[0], abs=1e-6)
    assert learning.mixture[300:].mean() > still.mixture[300:].mean() + 0.01
    again = Mixture(mixture.memories, learning.gate).score(model, tokens)
    assert again.mixture.mean() > still.mixture.mean() + 0.01


def test_much_calibration_text_is_thinned_out() -> None:
    model, memories, tokens = make_model(), make_memories(), make_tokens(2, 1200)
    whole = calibrate(model, memories, tokens, kind="geometric")
    part = calibrate(model, memories, tokens, kind="geometric", max_bytes=1200 * 3 * VOCAB)
    other = make_tokens(3, 1000)
    scores = [Mixture(memories, gate).score(model, other).mixture.mean() for gate in (whole, part)]
    assert scores[0] != scores[1]
    assert scores[1] == pytest.approx(scores[0], abs=0.1)


def test_misuse_is_refused() -> None:
    memories = make_memories()
    with pytest.raises(UserError, match="the gate must be fitted for these 2 memories; got one for 1"):
        Mixture(memories, make_gate("linear", 1))
    with pytest.raises(UserError, match=r"must have memories of one vocabulary; got sizes \[9, 20\]"):
        Mixture([memories[0], NgramMemory.empty(9, 2)], make_gate("linear", 2))
    with pytest.raises(UserError, match=r"must have memories of one vocabulary; got sizes \[\]"):
        calibrate(make_model(), [], make_tokens(1, 50))
    with pytest.raises(UserError, match="learn_as must have an entry for each of 2 memories; got 1"):
        Mixture(memories, make_gate("linear", 2)).score(make_model(), make_tokens(1, 50), learn_as=(1,))
    memories[0].learn(1, np.arange(4))
    with pytest.raises(UserError, match="row must have a number of its own; 1 is taken"):
        list(read_beside(make_model(), make_tokens(1, 50), memories, (1, None)))


def test_vectors_are_those_that_the_ids_are_predicted_from() -> None:
    model, tokens = make_model(), make_tokens(1, 40)
    ids, vectors = collect_vectors(model, tokens)
    assert np.array_equal(ids, tokens.ids[1:])
    assert vectors.dtype == np.float16
    logits = model.logits(torch.from_numpy(vectors.astype(np.float32)))
    nats = -torch.log_softmax(logits, -1).detach().numpy()[np.arange(39), ids]
    # float16 keeps three digits of vectors whose products with the head have sixteen terms.
    np.testing.assert_allclose(nats, score_tokens(model, tokens), atol=0.05)
