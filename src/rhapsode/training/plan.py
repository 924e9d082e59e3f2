"""What a run will be, before anything is spent: sizes, parameters, memory, speed and tokens."""

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from rhapsode.errors import UserError
from rhapsode.models.budget import choose_vocab_size, count_parameters, solve_sizes
from rhapsode.models.config import ModelConfig
from rhapsode.text.config import MIN_VOCAB_SIZE, TokenizerConfig
from rhapsode.training.config import Recipe, TrainingConfig
from rhapsode.training.schedule import Budget, build_budget

# measured: bytes of English text or code that one id stands for.
BYTES_PER_TOKEN = {"bytes": 1.0, "chars": 1.0, "bpe": 3.2, "ngram": 3.9}
# tokenizers whose size is a choice; the others have as many ids as bytes or characters.
LEARNT_KINDS = ("bpe", "ngram")
# measured: share of the processor's matrix speed that a whole training step reaches.
STEP_EFFICIENCY = {True: 0.35, False: 0.2}
# training tokens for one body parameter, where the size is ours to choose (short runs repeat their text).
TOKENS_PER_PARAMETER = 4.0
# parameters for one byte of training text beyond which a short run only memorises.
MAX_PARAMETERS_PER_BYTE = 4.0


@dataclass(frozen=True)
class Plan:
    """A run before it starts. Memory in bytes, time in seconds; speed and what follows from it are estimates."""

    model: ModelConfig
    parameters: int
    memory_bytes: int
    tokens_per_s: float
    tokens: int
    steps: int
    seconds: float
    tokens_per_epoch: int


def tokenizer_cap(recipe: Recipe, params: int) -> TokenizerConfig:
    """Return the tokenizer's settings with the hard cap that the budget affords; a given cap wins.

    Raises:
        UserError: if the recipe's model.vocab_size is below what a tokenizer needs.
    """
    config = recipe.tokenizer
    if recipe.model.vocab_size is not None and recipe.model.vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"model.vocab_size must be at least {MIN_VOCAB_SIZE} (3 specials and 256 bytes); "
            f"got {recipe.model.vocab_size}."
        )
    cap = config.max_vocab_size or recipe.model.vocab_size
    if cap is None and config.kind in LEARNT_KINDS:
        cap = choose_vocab_size(recipe.model, params, MIN_VOCAB_SIZE)
    return config.model_copy(update={"max_vocab_size": cap})


def check_given(recipe: Recipe, vocab_size: int) -> None:
    """Refuse a tokenizer, given or of prepared shards, that is larger than a cap that was asked for.

    Raises:
        UserError: naming the cap and the size.
    """
    caps = {"tokenizer.max_vocab_size": recipe.tokenizer.max_vocab_size, "model.vocab_size": recipe.model.vocab_size}
    for name, cap in caps.items():
        if cap is not None and vocab_size > cap:
            raise UserError(
                f"{name} must be at least the size of the tokenizer that is given or that the shards were made with; "
                f"got {cap} and {vocab_size} ids. Raise it, leave it out, or use another tokenizer."
            )


def choose_params(recipe: Recipe, train_bytes: int) -> int:
    """Return the parameter budget: the one given, or one that text and minutes can fill.

    Sizes follow compute: with C floating-point operations to spend, a body of sqrt(C / 24) parameters sees
    four tokens for each of them (shape of the rule: Hoffmann et al. 2022, arXiv 2203.15556).
    """
    if recipe.params is not None:
        return recipe.params
    training = recipe.training
    if training.minutes is not None or (training.steps is None and training.tokens is None and training.epochs is None):
        operations = (training.minutes or 3.0) * 60 * matrix_speed(torch.bfloat16) * STEP_EFFICIENCY[True]
        body = (operations / (6 * TOKENS_PER_PARAMETER)) ** 0.5
    else:
        tokens_per_step = training.batch_size * training.gradient_accumulation_steps * recipe.model.seq_len
        epoch = int(train_bytes / BYTES_PER_TOKEN.get(recipe.tokenizer.kind, 1.0))
        budget = build_budget(training, tokens_per_step, epoch)
        body = (budget.steps or 1) * tokens_per_step / TOKENS_PER_PARAMETER
    # about half of a budget is the body; tables and vocabulary are the rest.
    return _round_size(max(500_000, min(2 * body, MAX_PARAMETERS_PER_BYTE * train_bytes)))


def make_plan(
    recipe: Recipe, params: int, vocab_size: int, tokens_per_epoch: int, precision: torch.dtype, *, compiled: bool
) -> Plan:
    """Solve the sizes and estimate what the run will cost.

    Raises:
        UserError: if the budget is infeasible.
    """
    model = solve_sizes(recipe.model, params, vocab_size)
    parameters = count_parameters(model)
    training = recipe.training
    tokens_per_step = training.batch_size * training.gradient_accumulation_steps * model.seq_len
    speed = estimate_speed(model, precision, compiled=compiled)
    budget: Budget = build_budget(training, tokens_per_step, tokens_per_epoch)
    steps = budget.steps if budget.steps is not None else max(1, int((budget.seconds or 0) * speed / tokens_per_step))
    return Plan(
        model=model,
        parameters=parameters,
        memory_bytes=estimate_memory(model, parameters, training),
        tokens_per_s=speed,
        tokens=steps * tokens_per_step,
        steps=steps,
        seconds=steps * tokens_per_step / speed,
        tokens_per_epoch=tokens_per_epoch,
    )


def estimate_speed(model: ModelConfig, precision: torch.dtype, *, compiled: bool) -> float:
    """Return the training tokens per second to expect on the CPU at hand, from a quarter-second measurement."""
    width, layers = model.width or 1, model.num_layers or 1
    body = layers * (4 + 2 * model.mlp_ratio) * width * width + width * (model.vocab_size or 1)
    operations = 6 * body + 12 * layers * width * model.seq_len
    return matrix_speed(precision) * STEP_EFFICIENCY[compiled] / operations


def estimate_memory(model: ModelConfig, parameters: int, training: TrainingConfig) -> int:
    """Return the bytes that training holds: weights, gradients, two moments, and what a backward pass needs."""
    width, layers = model.width or 1, model.num_layers or 1
    rows = training.batch_size * model.seq_len
    per_row = layers * (2 * (10 + 3 * model.mlp_ratio) * width + 6 * model.seq_len * (model.num_heads or 1))
    logits = rows if training.loss_chunk_size == 0 else min(rows, training.loss_chunk_size)
    return int(parameters * 16 + rows * per_row + logits * (model.vocab_size or 1) * 12)


@lru_cache
def matrix_speed(precision: torch.dtype, seconds: float = 0.25) -> float:
    """Measure, once a process, floating-point operations per second of a product of the size training does most.

    The best of many products, not their mean: what else the machine does at this moment must not decide the
    size of a model.
    """
    a = torch.ones(2048, 256, dtype=precision)
    b = torch.ones(256, 1024, dtype=precision)
    best, end = float("inf"), time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2.0 * 2048 * 256 * 1024 / best


def _round_size(params: float) -> int:
    """Return the nearest of 1, 1.5, 2, 3, 4, 6, 8 times a power of ten, so that one command gives one size."""
    power = 10.0 ** math.floor(math.log10(params))
    steps = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
    return round(power * min(steps, key=lambda step: abs(math.log(params / power / step))))
