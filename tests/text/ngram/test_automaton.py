"""The compiled encoders give the ids of the plain ones, whatever the tokens."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.text.ngram.automaton import UNIT, Automaton
from rhapsode.text.ngram.plain import greedy_plain, shortest_plain

few_letters = st.text("abc é", min_size=2, max_size=20).map(lambda text: text.encode()[:31])
any_bytes = st.binary(min_size=2, max_size=31)


@given(
    st.lists(st.one_of(few_letters, any_bytes), max_size=40, unique=True),
    st.one_of(st.text("abc é", max_size=200).map(str.encode), st.binary(max_size=100)),
    st.data(),
)
@settings(max_examples=300, deadline=None)
def test_twins(tokens: list[bytes], data: bytes, more: st.DataObject) -> None:
    # text made of tokens as well, or long ones would never be met.
    if tokens:
        data += b"".join(more.draw(st.lists(st.sampled_from(tokens), max_size=10)))
    automaton = Automaton(tokens)
    array = np.frombuffer(data, dtype=np.uint8)
    assert automaton.shortest(array).tolist() == shortest_plain(tokens, data)
    assert automaton.greedy(array).tolist() == greedy_plain(tokens, data)


def test_twins_on_many_random_tokens() -> None:
    rng = random.Random(3)
    tokens = list({bytes(rng.choices(b"etaoin shrdlu\xc3\xa9", k=rng.randrange(2, 12))) for _ in range(20_000)})
    data = b"".join(rng.choices(tokens, k=3_000)) + rng.randbytes(2_000)
    automaton = Automaton(tokens)
    # more states than two bytes can number.
    assert automaton.num_states > 1 << 16
    array = np.frombuffer(data, dtype=np.uint8)
    assert automaton.shortest(array).tolist() == shortest_plain(tokens, data)
    assert automaton.greedy(array).tolist() == greedy_plain(tokens, data)


def test_the_shortest_way_is_never_longer_than_the_greedy_one() -> None:
    tokens = [b"ab", b"abc", b"cdef", b"def"]
    data = np.frombuffer(b"abcdef", dtype=np.uint8)
    assert Automaton(tokens).shortest(data).tolist() == [259, 261]
    rng = random.Random(4)
    tokens = list({bytes(rng.choices(b"abcd", k=rng.randrange(2, 7))) for _ in range(200)})
    array = np.frombuffer(bytes(rng.choices(b"abcd", k=5_000)), dtype=np.uint8)
    automaton = Automaton(tokens)
    assert len(automaton.shortest(array)) < len(automaton.greedy(array))


def test_costs_decide() -> None:
    tokens = [b"ab", b"bc"]
    costs = np.full(261, UNIT, dtype=np.int64)
    data = np.frombuffer(b"abc", dtype=np.uint8)
    assert Automaton(tokens, costs).shortest(data).tolist() == [3 + ord("a"), 260]
    costs[260] += 1
    assert Automaton(tokens, costs).shortest(data).tolist() == [259, 3 + ord("c")]


def test_what_a_token_saves() -> None:
    automaton = Automaton([b"ab", b"abab", b"xyz", b"abxyz"])
    assert automaton.counts_without().tolist() == [2, 2, 3, 2]
    assert Automaton([]).counts_without().tolist() == []


def test_every_byte_can_be_in_a_token() -> None:
    tokens = [bytes([byte, (byte + 1) % 256]) for byte in range(256)]
    data = bytes(range(256)) * 3
    assert Automaton(tokens).shortest(np.frombuffer(data, dtype=np.uint8)).tolist() == shortest_plain(tokens, data)


@pytest.mark.parametrize("tokens", [[b"ab", b"ab"], [b"a"], [b""], [b"a" * 32]])
def test_tokens_must_be_new_and_of_a_length_that_fits(tokens: list[bytes]) -> None:
    with pytest.raises(ValueError, match="tokens of 2 to 31 bytes, each once, were expected"):
        Automaton(tokens)
