"""How far a student is from its teacher, known by its likeliest ids and the mass of all others.

    KL = sum over the K ids of p_k (log p_k - log q_k)  +  p_rest (log p_rest - log q_rest)

which is a lower bound of the divergence over all ids, exact where teacher and student spread the rest alike (Hinton,
Vinyals & Dean 2015, arXiv 1503.02531, without a temperature; the tail as one event).

Shape letters: N positions, C vocabulary, K ids kept.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# the student's rest is found by subtraction, and float32 holds no less than this beside one.
_SMALLEST_REST = 1e-6


def divergence(
    log_probs: Float[Tensor, "N C"],
    top_ids: Int[Tensor, "N K"],
    top_log_probs: Float[Tensor, "N K"],
    tail_log_mass: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Return KL(teacher, student) in nats of each position, with the tail as one event.

    Args:
        log_probs: of the student, normalised.
        top_ids: the teacher's likeliest.
        top_log_probs: the teacher's log-probabilities of them.
        tail_log_mass: the teacher's log-probability of all others together.
    """
    student = log_probs.gather(1, top_ids)
    # as stored, in sixteen bits, the teacher's parts need not quite sum to one.
    total = torch.cat([top_log_probs, tail_log_mass[:, None]], dim=1).logsumexp(dim=1, keepdim=True)
    top, tail = top_log_probs - total, tail_log_mass - total[:, 0]
    rest = (1 - student.exp().sum(dim=1)).clamp_min(_SMALLEST_REST).log()
    found: Tensor = (top.exp() * (top - student)).sum(dim=1) + tail.exp() * (tail - rest)
    return found


def distillation_loss(
    log_probs: Float[Tensor, "N C"],
    next_ids: Int[Tensor, " N"],
    top_ids: Int[Tensor, "N K"],
    top_log_probs: Float[Tensor, "N K"],
    tail_log_mass: Float[Tensor, " N"],
    hard: float,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return the mixed loss and its soft part: (1 - hard) KL + hard (-log q of what came), nats."""
    soft = divergence(log_probs, top_ids, top_log_probs, tail_log_mass)
    nats = F.nll_loss(log_probs, next_ids, reduction="none")
    return (1 - hard) * soft + hard * nats, soft
