"""How much of the budget is spent, and the learning rate that follows it."""

from dataclasses import dataclass

from rhapsode.training.config import TrainingConfig


@dataclass(frozen=True)
class Budget:
    """The end of a training, in steps or in seconds, whichever the person gave."""

    steps: int | None
    seconds: float | None

    def progress(self, step: int, elapsed_s: float) -> float:
        """Return the spent share after `step` steps and `elapsed_s` seconds; 1 or more ends the training."""
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None
        return elapsed_s / self.seconds


def build_budget(config: TrainingConfig, tokens_per_step: int, tokens_per_epoch: int) -> Budget:
    """Turn minutes, tokens, steps or epochs into a `Budget`; three minutes if none is given.

    Token and epoch budgets are rounded to whole steps, at least one.
    """
    if config.steps is not None:
        return Budget(config.steps, None)
    if config.tokens is not None:
        return Budget(max(1, round(config.tokens / tokens_per_step)), None)
    if config.epochs is not None:
        return Budget(max(1, round(config.epochs * tokens_per_epoch / tokens_per_step)), None)
    return Budget(None, 60.0 * (config.minutes or 3.0))


def learning_rate_fraction(progress: float, step: int, config: TrainingConfig) -> float:
    """Return the rate as a share of its peak: a linear rise, a plateau, a linear fall to zero.

    (Warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395.)
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    fall = min(1.0, (1.0 - progress) / config.cooldown) if config.cooldown else 1.0
    return max(0.0, min(rise, fall))


def muon_momentum(step: int) -> float:
    """Return Muon's momentum: it rises from 0.85 to 0.95 over the first 100 steps."""
    return 0.85 + 0.10 * min(1.0, step / 100)
