"""From a parameter budget to vocabulary, width and depth, counted exactly on the meta device."""

import math
import sys
from collections.abc import Iterator
from functools import lru_cache

import torch

from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder

# a budget must be used to at least this share.
MIN_FILL = 0.9
# width over depth of the shipped sizes; what decides at equal parameters is speed, not this.
WIDTH_PER_LAYER = 48
MIN_WIDTH = 32
# shares of a budget where everything is free: hashed tables cost memory, not time; a vocabulary both.
TABLE_SHARE = 0.35
# where the body does not fit beside such tables, smaller ones do.
SMALLER_SHARES = (0.1, 0.01)
VOCAB_SHARE = 0.2


@lru_cache(maxsize=65_536)
def count_parameters(config: ModelConfig) -> int:
    """Return the exact number of trainable scalars of a config whose sizes are all given; nothing is allocated."""
    period = len(config.mix.split())
    cycles, rest = divmod(config.num_layers or 0, period)
    if cycles > 2:
        # layers repeat, so that a deep model need not be built to be counted.
        one, two, shallow = (
            count_parameters(_with(config, num_layers=layers)) for layers in (period, 2 * period, period + rest)
        )
        return shallow + (cycles - 1) * (two - one)
    with torch.device("meta"):
        return Decoder(config).num_parameters()


def choose_vocab_size(model: ModelConfig, params: int, smallest: int) -> int:
    """Return how large a learnt vocabulary the budget affords: a fixed share of it.

    Args:
        smallest: the least the tokenizer can do with.
    """
    width = model.width or _ideal_width(params * (1 - VOCAB_SHARE - _table_share(model)))
    of_head = {"tied": 0, "factored": model.factored.rank, "squared_amplitude": model.factored.rank}
    return max(smallest, int(params * VOCAB_SHARE / (width + of_head.get(model.predict, width))))


def solve_sizes(model: ModelConfig, params: int, vocab_size: int) -> ModelConfig:
    """Fill in every size that is not given, so that 90-100 % of `params` is used.

    Sizes that are given win: where nothing is left to choose, the result may miss the budget.

    Args:
        params: budget in trainable scalars.
        vocab_size: ids of the tokenizer, specials included.

    Raises:
        UserError: if the budget is below the smallest model of this recipe, or no size of it reaches 90 %.
    """
    if params < 1:
        raise UserError(f"--params must be positive; got {params}. Try 5M.")
    model = _with(model, vocab_size=vocab_size)
    if model.embed == "holographic":
        model = _with(model, holographic=model.holographic.fitted(vocab_size))
    fixed_tables = not _buckets_free(model)
    if model.width and model.num_layers and fixed_tables:
        return _with(
            model,
            num_heads=model.num_heads or _choose_heads(model, model.width),
            hypervector_stream=_stream(model, model.width),
        )
    shares = (0.0,) if fixed_tables else (TABLE_SHARE, *SMALLER_SHARES)
    found = (_best_body(model, params, share) for share in shares)
    best = next((body for body in found if body is not None), None)
    if best is None:
        smallest = _smallest(model)
        if params < smallest:
            raise UserError(
                f"--params must be at least {smallest} for this recipe and a vocabulary of {vocab_size}; got {params}."
            )
        raise UserError(
            f"--params must be near a size that these settings can reach; got {params}, and no width and depth "
            "use 90 % of it. Leave model.width or model.num_layers free."
        )
    return best if fixed_tables else _fill_tables(best, params)


def _best_body(model: ModelConfig, params: int, table_share: float) -> ModelConfig | None:
    """Return the best shaped body: coarse widths first, finer ones only where no coarse one fits."""
    limit = int(params * (1 - table_share))
    if count_parameters(_tiniest(model)) > limit:
        # no size fits: need not be tried one after another.
        return None
    for granularity in (32, 16, 8, 4, 2):
        found: list[tuple[float, ModelConfig]] = []
        for width in _widths(model, limit, granularity):
            for candidate in _depths(model, width, limit):
                used = count_parameters(candidate)
                if used > limit or (table_share == 0.0 and used < MIN_FILL * params):
                    continue
                layers = candidate.num_layers or 1
                # prefer the usual shape, then a fuller budget.
                shape = abs(math.log(width / (WIDTH_PER_LAYER * layers)))
                found.append((shape + 4.0 * (1 - used / limit), candidate))
        if found:
            return min(found, key=lambda pair: pair[0])[1]
    return None


def _widths(model: ModelConfig, limit: int, granularity: int) -> Iterator[int]:
    if model.width:
        yield model.width
        return
    ideal = _ideal_width(limit)
    usual = [width for width in range(MIN_WIDTH, int(ideal * 2) + granularity, granularity) if _has_heads(model, width)]
    start = next((width for width in usual if width >= int(ideal / 2.5) // granularity * granularity), None)
    # narrower than usual only where a large vocabulary leaves no room: many narrow layers are slow.
    narrow = start is None or count_parameters(_body(model, start, 1)) > limit
    yield from (width for width in usual if narrow or start is None or width >= start)


def _body(model: ModelConfig, width: int, num_layers: int) -> ModelConfig:
    """Fill in sizes, with the smallest tables where they are free."""
    return _with(
        model,
        width=width,
        num_layers=num_layers,
        num_heads=model.num_heads or _choose_heads(model, width),
        hashed_ngrams=_with_buckets(model, 1) if _buckets_free(model) else model.hashed_ngrams,
        hypervector_stream=_stream(model, width),
    )


def _depths(model: ModelConfig, width: int, limit: int) -> Iterator[ModelConfig]:
    """Yield the deepest body of this width within the limit, and the next shallower."""
    if model.num_layers:
        yield _body(model, width, model.num_layers)
        return
    one = count_parameters(_body(model, width, 1))
    if one > limit:
        return
    per_layer = count_parameters(_body(model, width, 2)) - one
    deepest = 1 + (limit - one) // per_layer
    for layers in (deepest, deepest - 1):
        if layers >= 1:
            yield _body(model, width, layers)


def _fill_tables(model: ModelConfig, params: int) -> ModelConfig:
    """Give what is left of the budget to the hashed tables; they can take any number of rows."""
    used = count_parameters(model)
    per_bucket = count_parameters(_with(model, hashed_ngrams=_with_buckets(model, 2))) - used
    return _with(model, hashed_ngrams=_with_buckets(model, 1 + max(0, (params - used) // per_bucket)))


def _tiniest(model: ModelConfig) -> ModelConfig:
    """Return the smallest body that these settings allow."""
    # past a multiple of everything that heads ask for, no width is new.
    end = (model.hypervector_stream.hd_dim or sys.maxsize) if model.streams else sys.maxsize
    widths = (width for width in range(MIN_WIDTH, end + 1, 2) if _has_heads(model, width))
    width = model.width or next(widths, None)
    if width is None:
        raise UserError(
            f"model.hypervector_stream.hd_dim must be a multiple of an even width from {MIN_WIDTH} on; got {end}. "
            f"Try {-(-end // MIN_WIDTH) * MIN_WIDTH}."
        )
    return _body(model, width, model.num_layers or 1)


def _smallest(model: ModelConfig) -> int:
    # a body may take no more than its share where tables take the rest.
    share = min(SMALLER_SHARES) if _buckets_free(model) else 0.0
    return math.ceil(count_parameters(_tiniest(model)) / (1 - share)) + 1


def _choose_heads(model: ModelConfig, width: int) -> int:
    """Return the number of heads whose size is nearest to the wanted one, in ratio."""
    kv_heads = model.attention.num_kv_heads or 1
    valid = [h for h in range(1, width // 2 + 1) if width % (2 * h) == 0 and h % kv_heads == 0]
    if not valid:
        raise UserError(
            f"model.attention.num_kv_heads must divide a number of heads that fits model.width; got {kv_heads} "
            f"and width {width}. Try 1."
        )
    return min(valid, key=lambda heads: abs(math.log(width / heads / model.attention.head_dim)))


def _stream(model: ModelConfig, width: int) -> object:
    """Settings of bundles that fit the width; as they are where the model has none."""
    return model.hypervector_stream.fitted(width) if model.streams else model.hypervector_stream


def _has_heads(model: ModelConfig, width: int) -> bool:
    """Return whether a width can be cut into heads of even size, as many as settings ask for, and divides bundles."""
    if model.streams and (model.hypervector_stream.hd_dim or 0) % width:
        return False
    return width % (2 * (model.num_heads or model.attention.num_kv_heads or 1)) == 0


def _ideal_width(body: float) -> int:
    """Width of a body of this many parameters at the usual shape: 12 width^2 a layer."""
    return max(MIN_WIDTH, round(math.cbrt(body * WIDTH_PER_LAYER / 12)))


def _buckets_free(model: ModelConfig) -> bool:
    return model.token_embedder == "hashed_ngrams" and model.hashed_ngrams.num_buckets is None


def _table_share(model: ModelConfig) -> float:
    return TABLE_SHARE if _buckets_free(model) else 0.0


def _with_buckets(model: ModelConfig, num_buckets: int) -> object:
    return model.hashed_ngrams.model_copy(update={"num_buckets": num_buckets})


def _with(model: ModelConfig, **sizes: object) -> ModelConfig:
    """Copy with other sizes, validated again."""
    return build_config(ModelConfig, {**dict(model), **sizes}, "model")
