"""The sentence encoder: padding changes nothing, order and both sides count, every parameter learns."""

import pytest
import torch

from rhapsode.nn.sentence_encoder import FullAttention, SentenceEncoder


def make_encoder(seed: int = 0) -> SentenceEncoder:
    encoder = SentenceEncoder(vocab_size=30, width=16, num_layers=2, num_heads=4, max_length=9)
    encoder.init_weights(torch.Generator().manual_seed(seed))
    # wider than at first, so that what differs is seen.
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(5)
    return encoder


def make_ids(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 30, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 5, 7])
def test_padding_changes_nothing(length: int) -> None:
    encoder, ids = make_encoder(), make_ids(3, 9)
    present = torch.arange(9)[None].expand(3, 9) < length
    alone = encoder(ids[:, :length], torch.ones(3, length, dtype=torch.bool))
    assert torch.allclose(encoder(ids, present), alone, atol=1e-5)


def test_attention_is_the_softmax_over_both_sides() -> None:
    attention = FullAttention(8, 2)
    generator = torch.Generator().manual_seed(0)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(2, 5, 8, generator=generator)
    y, _ = attention(x, positions=torch.arange(5))
    q, k, v = attention.qkv(x).split(8, dim=-1)
    plain = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (q[..., head] @ k[..., head].transpose(1, 2) / 2).softmax(-1)
        plain.append(weights @ v[..., head])
    assert torch.allclose(y, attention.out(torch.cat(plain, -1)), atol=1e-4)


def test_every_word_and_its_place_count() -> None:
    encoder, ids = make_encoder(), make_ids(1, 6)
    present = torch.ones(1, 6, dtype=torch.bool)
    before = encoder(ids, present)
    for place in range(6):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % 29 + 1
        assert not torch.allclose(encoder(changed, present), before, atol=1e-3)
    assert not torch.allclose(encoder(ids.flip(1), present), before, atol=1e-3)


def test_every_parameter_gets_gradient() -> None:
    encoder, ids = make_encoder(), make_ids(8, 9)
    encoder(ids, torch.ones(8, 9, dtype=torch.bool)).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_equal_seeds_give_equal_weights() -> None:
    one, other, third = make_encoder(1), make_encoder(1), make_encoder(2)
    pairs = list(zip(one.parameters(), other.parameters(), third.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)
