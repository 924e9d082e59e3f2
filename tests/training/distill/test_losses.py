import torch

from rhapsode.training.distill.losses import distillation_loss, divergence


def make_pair(rows: int = 6, vocab: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, rows, vocab, generator=generator, dtype=torch.float64)
    return teacher.log_softmax(1), student.log_softmax(1)


def kept(log_probs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    top, ids = log_probs.topk(k, dim=1)
    return ids, top, log_probs.scatter(1, ids, -torch.inf).logsumexp(1).clamp_min(-30)


def test_with_all_ids_but_one_it_is_the_divergence() -> None:
    teacher, student = make_pair()
    whole = (teacher.exp() * (teacher - student)).sum(1)
    # the tail is one id, so nothing is lumped together.
    torch.testing.assert_close(divergence(student, *kept(teacher, 11)), whole, rtol=1e-5, atol=1e-6)


def test_fewer_ids_give_a_lower_bound_that_is_never_negative() -> None:
    teacher, student = make_pair(seed=1)
    whole = (teacher.exp() * (teacher - student)).sum(1)
    for k in (1, 3, 8):
        found = divergence(student, *kept(teacher, k))
        assert bool((found <= whole + 1e-6).all())
        assert bool((found >= -1e-6).all())
    torch.testing.assert_close(divergence(teacher, *kept(teacher, 3)), torch.zeros(6).double(), rtol=0, atol=1e-6)


def test_the_mixture_has_gradient_and_its_parts_are_its_ends() -> None:
    teacher, student = make_pair(seed=2)
    next_ids = torch.randint(12, (6,), generator=torch.Generator().manual_seed(0))
    parts = kept(teacher, 4)
    hard, soft = distillation_loss(student, next_ids, *parts, hard=1.0)
    torch.testing.assert_close(hard, -student.gather(1, next_ids[:, None])[:, 0])
    torch.testing.assert_close(distillation_loss(student, next_ids, *parts, hard=0.0)[0], soft)
    raw = torch.randn(6, 12, dtype=torch.float64, requires_grad=True)
    loss = distillation_loss(raw.log_softmax(1), next_ids, *parts, hard=0.3)[0].sum()
    loss.backward()
    step = 1e-6
    moved = raw.detach().clone()
    moved[2, 5] += step
    later = distillation_loss(moved.log_softmax(1), next_ids, *parts, hard=0.3)[0].sum()
    assert raw.grad is not None
    torch.testing.assert_close((later - loss) / step, raw.grad[2, 5], rtol=1e-3, atol=1e-5)
