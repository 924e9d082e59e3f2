import numpy as np
import torch

from rhapsode.memory.kneser_ney import KneserNey
from rhapsode.memory.ngram_base import build_ngram_base
from rhapsode.models.field.base import BEFORE, BaseDistribution, CrossFitted
from rhapsode.models.field.shortlist import Shortlist


def make_ids(count: int, seed: int = 0) -> np.ndarray:
    """A text with structure: each id is near the last one."""
    steps = np.random.default_rng(seed).integers(-1, 2, count)
    return np.cumsum(steps) % 12


def make_base(ids: np.ndarray, order: int = 4) -> BaseDistribution:
    return BaseDistribution(Shortlist.fit(ids, 12, None).log_unigram, build_ngram_base(ids, 12, order))


def test_it_says_what_kneser_ney_says() -> None:
    train, text = make_ids(600), make_ids(40, seed=1)
    base, counts = make_base(train), KneserNey.fit(train, 12, 4)
    past = torch.full((1, 5), BEFORE)
    found = base.read(past, torch.from_numpy(text)[None])[0]
    for at in range(40):
        expected, _ = counts.predict(text[: at + 1])
        np.testing.assert_allclose(found[at].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert base.context == 2


def test_any_split_says_the_same() -> None:
    train, text = make_ids(600), torch.from_numpy(make_ids(30, seed=2))
    base = make_base(train)
    whole = base.read(torch.full((1, 3), BEFORE), text[None])[0]
    for cut in (1, 7, 29):
        parts = [
            base.read(torch.full((1, 3), BEFORE), text[None, :cut]),
            base.read(torch.cat([torch.full((3,), BEFORE), text[:cut]])[None, -3:], text[None, cut:]),
        ]
        torch.testing.assert_close(torch.cat(parts, dim=1)[0], whole)


def test_without_counts_it_is_the_unigram() -> None:
    unigram = Shortlist.fit(make_ids(100), 12, None).log_unigram
    base = BaseDistribution(unigram, None)
    found = base.read(torch.full((2, 1), BEFORE), torch.zeros(2, 3, dtype=torch.int64))
    assert found.shape == (2, 3, 12)
    torch.testing.assert_close(found[1, 2], torch.from_numpy(unigram))


def test_a_stretch_is_predicted_from_the_other_folds() -> None:
    ids = make_ids(400)
    unigram = Shortlist.fit(ids, 12, None).log_unigram
    cross = CrossFitted(ids, unigram, 4, 4)
    alone = BaseDistribution(unigram, build_ngram_base(np.concatenate([ids[:100], ids[200:]]), 12, 4))
    past = torch.from_numpy(ids[147:150])[None]
    text = torch.from_numpy(ids[150:170])[None]
    torch.testing.assert_close(cross.read([150], past, text), alone.read(past, text))
    # counts that have seen the stretch know it better than they should.
    seen = make_base(ids).read(past, text)
    came = torch.from_numpy(ids[151:171])[None, :, None]
    assert float(seen.gather(2, came).mean()) > float(alone.read(past, text).gather(2, came).mean())


def test_long_texts_are_left_out_in_short_stretches() -> None:
    ids = make_ids(9000)
    cross = CrossFitted(ids, Shortlist.fit(ids, 12, None).log_unigram, 3, 2)
    assert cross.at(0) is cross.at(2047) is cross.at(4096)
    assert cross.at(2048) is cross.at(8191) is not cross.at(0)
