"""How many tokens one bundle holds: the planning table, with bounds that its noise gives."""

import pytest
import torch

from rhapsode.ops.hypervector import ALGEBRAS, POSITIONS

VOCABULARY = 32_000
# what decides is M / L: a smaller M gives the same shares and costs less.
DIM = 512
# recovered share, in per cent, at L = M / divisor tokens a bundle.
TABLE = {64: (100, 100), 40: (98, 100), 24: (75, 95), 16: (42, 78)}


@pytest.fixture(scope="module", params=["holographic", "sign_flip"])
def recovered(request: pytest.FixtureRequest) -> dict[int, float]:
    """Per cent of tokens recovered from sixteen bundles at each length."""
    tokens, positions = (ALGEBRAS[request.param](DIM, 0, stream) for stream in (0, POSITIONS))
    candidates = tokens.keys(torch.arange(VOCABULARY))
    shares = {}
    for divisor in TABLE:
        length = DIM // divisor
        ids = torch.randint(0, VOCABULARY, (16, length), generator=torch.Generator().manual_seed(divisor))
        places = positions.keys(torch.arange(length))
        bundles = tokens.bundle(tokens.bind(candidates[ids], places))
        found = tokens.cleanup(tokens.unbind(bundles[:, None], places), candidates)
        shares[divisor] = 100 * (found == ids).float().mean().item()
    return shares


@pytest.mark.parametrize("divisor", sorted(TABLE))
def test_a_bundle_holds_what_the_table_says(recovered: dict[int, float], divisor: int) -> None:
    low, high = TABLE[divisor]
    assert low <= recovered[divisor] <= high


def test_fuller_bundles_lose_more(recovered: dict[int, float]) -> None:
    shares = [recovered[divisor] for divisor in sorted(TABLE, reverse=True)]
    assert shares == sorted(shares, reverse=True)
