"""Controls of the same size: their parameters, their vectors, and that all of them learn."""

import pytest
import torch

from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import build_decoder
from rhapsode.nn.compressed import CompressedEmbedder, HashEmbedder, LowRankEmbedder, QuotientRemainderEmbedder
from rhapsode.nn.config import CompressedConfig

CLASSES = [LowRankEmbedder, HashEmbedder, QuotientRemainderEmbedder]
NAMES = ["low_rank", "hash", "quotient_remainder"]


def size(embedder: CompressedEmbedder) -> int:
    return sum(p.numel() for p in embedder.parameters())


@pytest.mark.parametrize("make", CLASSES)
@pytest.mark.parametrize("compression", [2.0, 16.0])
def test_sizes_are_the_share_that_was_asked_for(make: type[CompressedEmbedder], compression: float) -> None:
    vocab_size, width = 2_000, 64
    embedder = make(vocab_size, width, CompressedConfig(compression=compression))
    # quotients need 2 sqrt(C) rows at least, 90 here; a rank is whole.
    wanted = max(vocab_size * width / compression, 90 * width if make is QuotientRemainderEmbedder else 0)
    assert size(embedder) == pytest.approx(wanted, rel=0.15)
    assert embedder.weight.shape == (vocab_size, width)


@pytest.mark.parametrize("make", CLASSES)
def test_ids_have_vectors_of_their_own(make: type[CompressedEmbedder]) -> None:
    embedder = make(300, 8, CompressedConfig(compression=2.0))
    for parameter in embedder.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    vectors = embedder.weight.detach()
    assert len(torch.unique(vectors.round(decimals=5), dim=0)) == 300
    ids = torch.randint(0, 300, (2, 5), generator=torch.Generator().manual_seed(0))
    assert torch.equal(embedder(ids, ids[:, :0]), vectors[ids])


@pytest.mark.parametrize("embed", NAMES)
@pytest.mark.parametrize(("predict", "size"), [("tied", 0.02), ("untied", 1.0)])
def test_vectors_start_as_large_as_those_of_a_table(embed: str, predict: str, size: float) -> None:
    sizes = {"width": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 500, "seq_len": 8}
    model = build_decoder(ModelConfig(embed=embed, predict=predict, compressed={"compression": 4}, **sizes), 0)
    assert float(model.embedder.weight.detach().std()) == pytest.approx(size, rel=0.3)


@pytest.mark.parametrize("embed", NAMES)
def test_positions_start_as_small_as_beside_a_table(embed: str) -> None:
    sizes = {"width": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 500, "seq_len": 64}
    settings = {"attention": {"positions": "learned"}, "init": "gpt2", "compressed": {"compression": 4}}
    config = ModelConfig(embed=embed, **settings, **sizes)
    table = build_decoder(config, 0).get_parameter("position_table.weight")
    assert float(table.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("embed", NAMES)
@pytest.mark.parametrize("predict", ["tied", "untied"])
def test_a_model_around_them_learns(embed: str, predict: str) -> None:
    sizes = {"width": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 100, "seq_len": 8}
    model = build_decoder(ModelConfig(embed=embed, predict=predict, compressed={"compression": 2}, **sizes), 0)
    ids = torch.randint(0, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(25):
        loss = model.loss(ids[:, :-1], ids[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1
    assert all((p.grad != 0).any() for p in model.embedder.parameters())
