"""From logits to one token id: penalty, temperature, top-k, top-p, min-p, in this order, then a draw.

The order is the one of Hugging Face transformers. After the penalty the logits are ranked, and only the ranked ones go
on: every filter then keeps a prefix, and with top-k on nothing after the ranking costs more than O(k).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.errors import StateError
from rhapsode.generation.config import GenerationConfig

# padding and the start of a document: always the first two ids, and never an answer.
NUM_NEVER_SAMPLED = 2


def sample(
    logits: Float[Tensor, " C"],
    config: GenerationConfig,
    generator: torch.Generator,
    seen_ids: Int[Tensor, " N"] | None = None,
) -> int:
    """Return the id of the next token; never padding or the start of a document.

    Args:
        logits: float32; not changed. `C` must be above 2.
        generator: on the device of `logits`. Advanced by one number, or by none at temperature 0.
        seen_ids: int64, ids of the prompt and the output so far, which the repetition penalty acts on. Repeats count
            once.

    Raises:
        StateError: if a logit is not a number or infinite.

    Cost: O(C), and a sort of C only if top-p is on and top-k off.
    """
    if seen_ids is not None and config.repetition_penalty != 1:
        logits = penalize_seen(logits, seen_ids, config.repetition_penalty)
    allowed = logits[NUM_NEVER_SAMPLED:]
    if config.temperature == 0:
        best, index = allowed.max(dim=-1)
        check_finite(best)
        return int(index) + NUM_NEVER_SAMPLED
    ranked, ids = filter_logits(allowed, config)
    check_finite(ranked.amax(dim=-1))
    place = draw(ranked, generator)
    return (place if ids is None else int(ids[place])) + NUM_NEVER_SAMPLED


def filter_logits(
    logits: Float[Tensor, "*B C"], config: GenerationConfig
) -> tuple[Float[Tensor, "*B K"], Int[Tensor, "*B K"] | None]:
    """Return the logits that a token is drawn from, and the places in `logits` that they came from.

    Temperature (above 0), top-k, top-p and min-p, in this order. Dropped logits are -inf or left out. The places are
    `None` where nothing was ranked: K is C and the order is that of `logits`.
    """
    if config.top_k or config.top_p < 1:
        kept, ids = rank(logits, config.top_k or None)
    else:
        kept, ids = logits, None
    # a division by a positive number does not change the ranking, so it waits until there are fewer logits.
    kept = apply_temperature(kept, config.temperature)
    if config.top_p < 1:
        kept = keep_top_p(kept, config.top_p)
    if config.min_p > 0:
        kept = keep_min_p(kept, config.min_p)
    return kept, ids


def penalize_seen(
    logits: Float[Tensor, "*B C"], seen_ids: Int[Tensor, "*B N"], penalty: float
) -> Float[Tensor, "*B C"]:
    """Divide the positive logits of seen ids by `penalty` and multiply the others (Keskar et al. 2019, 1909.05858).

    The paper divides all; for a negative logit that would be a reward, so we multiply it, as is usual today.
    """
    seen = logits.gather(-1, seen_ids)
    return logits.scatter(-1, seen_ids, torch.where(seen > 0, seen / penalty, seen * penalty))


def apply_temperature(logits: Float[Tensor, "*B C"], temperature: float) -> Float[Tensor, "*B C"]:
    """Return (logits - max) / temperature, for a temperature above 0.

    The softmax is that of logits / temperature, and cold temperatures cannot overflow.
    """
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def rank(logits: Float[Tensor, "*B C"], k: int | None = None) -> tuple[Float[Tensor, "*B K"], Int[Tensor, "*B K"]]:
    """Return the `k` largest logits, largest first, and their places; all C where `k` is `None` or above C.

    Exactly `k` are kept also where equal logits stand at the edge. Top-k sampling: Fan et al. 2018, arXiv 1805.04833.
    """
    size = logits.shape[-1]
    if k is None or k >= size:
        values, ids = logits.sort(dim=-1, descending=True)
    else:
        values, ids = logits.topk(k, dim=-1)
    return values, ids


def keep_top_p(ranked: Float[Tensor, "*B K"], p: float) -> Float[Tensor, "*B K"]:
    """Set to -inf all but the shortest prefix whose probability reaches `p` (Holtzman et al. 2019, arXiv 1904.09751).

    Args:
        ranked: logits, largest first. Their softmax is the distribution, so what top-k dropped does not count.
    """
    probabilities = ranked.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # the first token has nothing before it and always stays.
    return ranked.masked_fill(before >= p, -math.inf)


def keep_min_p(logits: Float[Tensor, "*B K"], p: float) -> Float[Tensor, "*B K"]:
    """Set to -inf what is less than `p` times as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082).

    A ratio of probabilities is a difference of logits, in any order: logit >= max + ln p.
    """
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


def draw(logits: Float[Tensor, " K"], generator: torch.Generator) -> int:
    """Return an index with the probability that softmax(logits) gives it, from one uniform number.

    Inverts the distribution function, in float64. `torch.multinomial` draws K numbers instead of one, which costs
    more than all filters together when K is the vocabulary.
    """
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    uniform = torch.rand((), generator=generator, dtype=torch.float64, device=logits.device)
    # 1 - uniform lies in (0, 1], so the threshold is reached, and never at an index of probability 0.
    return int(torch.searchsorted(cumulative, (1 - uniform) * cumulative[-1]))


def check_finite(best: Float[Tensor, "*N"]) -> None:
    """Refuse logits whose maximum, `best`, shows that they are damaged.

    Raises:
        StateError: saying so.
    """
    # a logit that is not a number is the maximum of any set, and infinity of any other.
    for value in best.flatten().tolist():
        if not math.isfinite(value):
            raise StateError(
                f"the model's logits must be finite; got {value}. Its weights are damaged or diverged; train again "
                "with a lower training.learning_rate."
            )
