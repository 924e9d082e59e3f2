"""The Bloom filter against a set, its rate against theory, and the order of tokens."""

import pytest
import torch

from rhapsode.errors import UserError
from rhapsode.ops.sketch.ngram_indicators import BloomNgrams, OrderHashes


def test_no_ngram_of_the_window_is_missed() -> None:
    bloom = BloomNgrams(4096, (1, 2, 3), 3, seed=4)
    window = torch.randint(0, 1000, (5, 20))
    bits = bloom.bits(window)
    for order in (1, 2, 3):
        assert bloom.contains(bits, window.unfold(1, order, 1)).all()


def test_bits_are_set_once() -> None:
    bloom = BloomNgrams(64, (1, 2), 2)
    window = torch.tensor([[7] * 10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    bits = bloom.bits(window)
    for row in bits:
        kept = [bit for bit in row.tolist() if bit >= 0]
        assert len(kept) == len(set(kept))
    # one unigram and one bigram, two bits each.
    assert int((bits[0] >= 0).sum()) <= 4


def test_the_false_positive_rate_is_that_of_theory() -> None:
    num_ngrams, num_bits = 400, 2048
    bloom = BloomNgrams(num_bits, (2,), 3, seed=1)
    window = torch.arange(8 * (num_ngrams + 1)).reshape(8, -1)
    bits = bloom.bits(window)
    others = torch.randint(10**6, 10**9, (8, 5000, 2))
    found = float(bloom.contains(bits, others).double().mean())
    theory = bloom.expected_false_positive_rate(num_ngrams)
    # 40,000 trials at a rate of about 0.08: four standard errors are 0.006; the fill of eight filters adds as much.
    assert abs(found - theory) < 0.012
    assert abs(float(bloom.false_positive_rate(bits).mean()) - theory) < 0.01


def test_missing_tokens_set_nothing() -> None:
    bloom = BloomNgrams(4096, (1, 2), 2)
    short, padded = torch.tensor([[5, 6, 7]]), torch.tensor([[-1, -1, 5, 6, 7]])
    assert [b for b in bloom.bits(short)[0].tolist() if b >= 0] == [b for b in bloom.bits(padded)[0].tolist() if b >= 0]
    assert int((bloom.bits(torch.full((1, 4), -1)) >= 0).sum()) == 0
    assert bloom.bits(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0)
    slots = OrderHashes(10**6).slots(padded)
    assert slots[0, :2].tolist() == [-1, -1]
    # the distance counts from the end, so that a shorter window has the same slots.
    assert slots[0, 2:].tolist() == OrderHashes(10**6).slots(short)[0].tolist()


def test_another_order_has_other_slots() -> None:
    window = torch.arange(50).unsqueeze(0)
    permuted = window.flip(1)
    order = OrderHashes(1 << 20)
    assert not set(order.slots(window)[0].tolist()) & set(order.slots(permuted)[0].tolist())
    # unigrams alone cannot tell the two apart.
    unigrams = BloomNgrams(4096, (1,), 2)
    assert torch.equal(unigrams.bits(window), unigrams.bits(permuted))


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(UserError, match="num_bits, num_hashes and every order must be at least 1"):
        BloomNgrams(0)
    with pytest.raises(UserError, match="every order"):
        BloomNgrams(8, ())
    with pytest.raises(UserError, match="num_slots must be at least 1; got 0"):
        OrderHashes(0)
