import numpy as np
import pytest
import torch

from rhapsode.errors import UserError
from rhapsode.models.field.shortlist import Shortlist, class_log_probs


def make_ids(vocab: int = 20, count: int = 500, seed: int = 0) -> np.ndarray:
    weights = 1.0 / np.arange(1, vocab + 1)
    return np.random.default_rng(seed).choice(vocab, count, p=weights / weights.sum())


def test_the_most_frequent_ids_have_a_class_each() -> None:
    ids = make_ids()
    shortlist = Shortlist.fit(ids, 20, 6)
    counts = np.bincount(ids, minlength=20)
    named = np.flatnonzero(shortlist.class_of < 5)
    assert len(named) == 5
    assert counts[named].min() >= np.delete(counts, named).max()
    assert shortlist.unk_class == 5
    assert shortlist.unk_rate(ids) == pytest.approx((~np.isin(ids, named)).mean())
    assert np.exp(shortlist.log_unigram).sum() == pytest.approx(1, abs=1e-5)


def test_without_a_limit_all_ids_fit() -> None:
    shortlist = Shortlist.fit(make_ids(), 20, None)
    assert shortlist.num_classes == 20
    assert shortlist.unk_class is None
    assert shortlist.unk_rate(make_ids()) == 0.0
    assert sorted(shortlist.class_of.tolist()) == list(range(20))
    assert Shortlist.fit(make_ids(), 6000, None).num_classes == 4096


@pytest.mark.parametrize("limit", [1, 21])
def test_a_limit_outside_the_vocabulary_is_refused(limit: int) -> None:
    with pytest.raises(UserError, match=f"must lie between 2 and the teacher's vocabulary 20; got {limit}"):
        Shortlist.fit(make_ids(), 20, limit)


@pytest.mark.parametrize("limit", [4, 20])
def test_classes_add_up(limit: int) -> None:
    shortlist = Shortlist.fit(make_ids(), 20, limit)
    log_probs = torch.randn(7, 20, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    found = class_log_probs(log_probs, torch.from_numpy(shortlist.class_of), limit).exp()
    expected = torch.zeros(7, limit).index_add_(1, torch.from_numpy(shortlist.class_of), log_probs.exp())
    torch.testing.assert_close(found, expected)
