"""What is learnt saves tokens, is deterministic, stays below its cap, and takes linear time."""

import random
import time
from itertools import pairwise

import numpy as np
import pytest

from rhapsode.text.ngram import learning
from rhapsode.text.ngram.automaton import Automaton
from rhapsode.text.ngram.learning import learn_ngrams
from rhapsode.text.ngram.tokenizer import sample_bytes


def count_tokens(tokens: list[bytes], text: bytes) -> int:
    return len(Automaton(tokens).shortest(np.frombuffer(text, dtype=np.uint8)))


def test_more_room_means_fewer_tokens(prose: str) -> None:
    text = prose[:100_000].encode()
    counts = [count_tokens(learn_ngrams([text], room), text) for room in (0, 20, 100, 400)]
    assert counts[0] == len(text)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < len(text) / 2


def test_it_beats_merging_pairs_once(prose: str) -> None:
    # the obvious way: the most frequent pair becomes a token, again and again.
    text = prose[:20_000].encode()
    merged: list[bytes] = []
    sequence = [bytes([byte]) for byte in text]
    for _ in range(60):
        pairs: dict[bytes, int] = {}
        for a, b in pairwise(sequence):
            pairs[a + b] = pairs.get(a + b, 0) + 1
        best = max((pair for pair in pairs if len(pair) <= 16), key=lambda pair: pairs[pair])
        merged.append(best)
        joined: list[bytes] = []
        for token in sequence:
            if joined and joined[-1] + token == best:
                joined[-1] = best
            else:
                joined.append(token)
        sequence = joined
    assert count_tokens(learn_ngrams([text], 60), text) < count_tokens(list(dict.fromkeys(merged)), text)


def test_the_same_text_gives_the_same_tokens(prose: str) -> None:
    pieces = [prose[i : i + 10_000].encode() for i in range(0, 60_000, 10_000)]
    learnt = learn_ngrams(pieces, 300)
    assert learnt == learn_ngrams(pieces, 300)
    assert len(learnt) == len(set(learnt)) == 300
    assert all(2 <= len(token) <= 16 for token in learnt)


def test_tokens_cross_spaces_but_not_texts() -> None:
    learnt = learn_ngrams([b"of the time"] * 50, 30)
    assert any(b" " in token[1:-1] for token in learnt)
    assert all(token in b"of the time" for token in learnt)
    assert learn_ngrams([b"ab"] * 50, 30) == [b"ab"]


def test_nothing_is_learnt_from_what_occurs_once() -> None:
    assert learn_ngrams([b"abcdefghij"], 100) == []
    assert learn_ngrams([], 100) == learn_ngrams([b"", b""], 100) == []
    assert learn_ngrams([b"ab ab"], 0) == []


def test_a_word_of_one_place_is_worth_less_than_one_of_many() -> None:
    rng = random.Random(0)
    noise = [bytes(rng.choices(b"abcdefghijklmnop", k=2_000)) for _ in range(100)]
    # the same count: fifty times in one stretch, or once in every other.
    text = [piece + b"XY" * (i % 2) + (b"QZ" * 50 if i == 40 else b"") for i, piece in enumerate(noise)]
    learnt = learn_ngrams(text, 300)
    assert b"XY" in learnt
    assert b"QZ" not in learnt or learnt.index(b"XY") < learnt.index(b"QZ")


def test_fixed_tokens_are_not_learnt_again(prose: str) -> None:
    text = prose[:30_000].encode()
    first = learn_ngrams([text], 100)
    more = learn_ngrams([text], 100, fixed=first)
    assert len(more) == 100
    assert not set(first) & set(more)
    assert count_tokens([*first, *more], text) < count_tokens(first, text)


def test_large_text_is_counted_in_slices(monkeypatch: pytest.MonkeyPatch, prose: str) -> None:
    text = prose[:200_000].encode()
    pieces = [text[i : i + 5_000] for i in range(0, len(text), 5_000)]
    whole = count_tokens(learn_ngrams(pieces, 200), text)
    monkeypatch.setattr(learning, "SLICE_BYTES", 50_000)
    monkeypatch.setattr(learning, "SLICE_BYTES_PER_TOKEN", 1)
    assert len(learning._slices(pieces, 50_000)) == 4
    assert len(learning._slices([*pieces, b"rest"], 50_000)) == 4
    # a slice of 50 kB knows less of the text than one of its real size.
    assert count_tokens(learn_ngrams(pieces, 200), text) < 1.15 * whole


def test_a_sample_is_bounded_and_fair() -> None:
    texts = [f"{i:04}" * 1_000 for i in range(500)]
    sample = sample_bytes(iter(texts), 400_000)
    assert sum(map(len, sample)) == 400_000
    numbers = [int(piece[:4]) for piece in sample]
    assert len(set(numbers)) == 100
    # a fair draw of a hundred has its mean within five deviations.
    assert abs(np.mean(numbers) - 249.5) < 5 * 144 / 10
    assert numbers == [int(piece[:4]) for piece in sample_bytes(iter(texts), 400_000)]
    assert sorted(sample_bytes(["ab", "", "cd"])) == [b"ab", b"cd"]


def test_ten_megabytes_of_one_letter_take_linear_time() -> None:
    learn_ngrams([b"warm up " * 9], 10)
    sample = sample_bytes(["a" * 10_000_000])
    begin = time.process_time()
    learnt = learn_ngrams(sample, 50)
    assert time.process_time() - begin < 20
    assert count_tokens(learnt, b"a" * 160) == 10
