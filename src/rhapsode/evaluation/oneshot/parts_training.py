"""Training of the part-of-speech guesser: two logistic regressions on hashed features; needs torch."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from rhapsode.evaluation.oneshot.features import NUM_BUCKETS
from rhapsode.evaluation.oneshot.matcher import Pair
from rhapsode.evaluation.oneshot.matcher_training import flatten, sum_rows
from rhapsode.evaluation.oneshot.parts import PartGuesser
from rhapsode.evaluation.oneshot.wordnet import PARTS

_EPOCHS, _BATCH, _RATE, _DROPOUT = 4, 256, 0.02, 0.3


def train_parts(pairs: Sequence[Pair], seed: int) -> PartGuesser:
    """Learn from the parts of speech of the corpus's senses. About three seconds for all of WordNet."""
    usages = [(usage.features, pair.part) for pair in pairs for usage in pair.usages]
    glosses = [(pair.gloss.features, pair.part) for pair in pairs]
    counts = np.bincount([part for _, part in usages], minlength=len(PARTS)) + 1.0
    return PartGuesser(*_fit(usages, seed), *_fit(glosses, seed), counts / counts.sum())


def _fit(
    examples: Sequence[tuple[list[int], int]], seed: int
) -> tuple[Float[np.ndarray, "F P"], Float[np.ndarray, " P"]]:
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    weights = torch.zeros(NUM_BUCKETS, len(PARTS), requires_grad=True)
    bias = torch.zeros(len(PARTS), requires_grad=True)
    optimizers = [torch.optim.SparseAdam([weights], lr=_RATE), torch.optim.Adam([bias], lr=_RATE)]
    for _ in range(_EPOCHS):
        order = random.permutation(len(examples))
        for start in range(0, len(order), _BATCH):
            batch = [examples[i] for i in order[start : start + _BATCH]]
            ids, starts = flatten([features for features, _ in batch])
            kept = (torch.rand(len(ids), generator=generator) >= _DROPOUT).float() / (1 - _DROPOUT)
            logits = sum_rows(ids, weights, starts, kept) + bias
            loss = F.cross_entropy(logits, torch.tensor([part for _, part in batch]))
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
    return weights.detach().numpy(), bias.detach().numpy()
