"""A decoder's matrices as arrays, in the order in which the compiled pass reads them."""

from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from rhapsode.models.contracts import LanguageModel
from rhapsode.models.decoder import Decoder
from rhapsode.nn.attention import Attention
from rhapsode.nn.embedders import HashedNgramEmbedder, TableEmbedder
from rhapsode.nn.heads import TiedHead, UntiedHead
from rhapsode.nn.norm import LayerNorm

# above this many numbers, reading them takes most of a step, and PyTorch has more than one thread for that.
MAX_NUMBERS = 64_000_000


class Weights(NamedTuple):
    """Matrices are (inputs, outputs), stacked over the blocks; what a model does not have is of size 0."""

    table: Float32[np.ndarray, "C D"]
    position_table: Float32[np.ndarray, "P D"]
    ngram_tables: Float32[np.ndarray, "O buckets dim"]
    orders: Int64[np.ndarray, " O"]
    projections: Float32[np.ndarray, "o dim D"]
    gains: Float32[np.ndarray, "norms D"]
    """Of the embedding, of the end, and two a block; with `biases` for LayerNorm only."""
    biases: Float32[np.ndarray, "norms D"]
    qkv: Float32[np.ndarray, "blocks D qkv"]
    out: Float32[np.ndarray, "blocks D D"]
    up: Float32[np.ndarray, "blocks D F"]
    down: Float32[np.ndarray, "blocks F D"]
    head: Float32[np.ndarray, "D C"]
    path: Int64[np.ndarray, " steps"]
    """Which block comes when."""
    windows: Int64[np.ndarray, " steps"]
    num_heads: int
    num_kv_heads: int
    has_embed_norm: bool
    is_layer_norm: bool
    is_gelu: bool
    has_qk_norm: bool
    rotary_base: float
    logit_cap: float

    @property
    def head_dim(self) -> int:
        """K, width of a head."""
        return int(self.out.shape[1]) // self.num_heads


_known: "WeakKeyDictionary[nn.Module, tuple[Any, Weights]]" = WeakKeyDictionary()


def weights_of(model: LanguageModel) -> Weights | None:
    """Return a model's weights for the compiled pass, or None where it has none.

    It computes decoders of at most 64 million parameters on a CPU, with float32 weights: embedding `table` or
    `hashed_ngrams`, mixers `attention` and `sliding`, head `tied` or `untied`, with either norm and either
    feed-forward. The matrices are copied once a model, and again after they have changed.
    """
    if not isinstance(model, Decoder) or not _is_supported(model):
        return None
    state = tuple((parameter.data_ptr(), parameter._version) for parameter in model.parameters())
    found = _known.get(model)
    if found is None or found[0] != state:
        found = state, _collect(model)
        _known[model] = found
    return found[1]


def _is_supported(model: Decoder) -> bool:
    parameters = list(model.parameters())
    return (
        all(parameter.device.type == "cpu" and parameter.dtype == torch.float32 for parameter in parameters)
        and sum(parameter.numel() for parameter in parameters) <= MAX_NUMBERS
        and type(model.embedder) in (TableEmbedder, HashedNgramEmbedder)
        and all(isinstance(cast(Any, block).mixer, Attention) for block in model.blocks)
        and type(model.head) in (TiedHead, UntiedHead)
    )


@torch.no_grad()
def _collect(model: Decoder) -> Weights:
    blocks = [cast(Any, model.blocks[index]) for index in range(len(model.blocks))]
    mixers: list[Attention] = [block.mixer for block in blocks]
    embedder, config = cast(Any, model.embedder), model.config
    width = embedder.table.weight.shape[1]
    nothing = np.zeros((0, 1, width), dtype=np.float32)
    orders = getattr(embedder, "orders", ())
    projections = getattr(embedder, "projections", None)
    norms = [model.final_norm if model.embed_norm is None else model.embed_norm, model.final_norm]
    norms += [norm for block in blocks for norm in (block.mixer_norm, block.feed_forward_norm)]
    is_layer_norm = config.norm == "layer"
    head = model.head.table if isinstance(model.head, TiedHead) else cast(Any, model.head).linear.weight
    return Weights(
        table=_array(embedder.table.weight),
        position_table=nothing[:, 0] if model.position_table is None else _array(model.position_table.weight),
        ngram_tables=_stack([table.weight for table in embedder.ngram_tables]) if orders else nothing,
        orders=np.array(orders, dtype=np.int64),
        projections=nothing if projections is None else _stack([part.weight.t() for part in projections]),
        gains=_stack([norm.gain for norm in norms if isinstance(norm, LayerNorm)]) if is_layer_norm else nothing[:, 0],
        biases=_stack([norm.bias for norm in norms if isinstance(norm, LayerNorm)]) if is_layer_norm else nothing[:, 0],
        qkv=_stack([mixer.qkv.weight.t() for mixer in mixers]),
        out=_stack([mixer.out.weight.t() for mixer in mixers]),
        up=_stack([block.feed_forward.up.weight.t() for block in blocks]),
        down=_stack([block.feed_forward.down.weight.t() for block in blocks]),
        head=_array(head.t()),
        path=np.array(model.order, dtype=np.int64),
        windows=np.array([mixers[block].window for block in model.order], dtype=np.int64),
        num_heads=mixers[0].num_heads,
        num_kv_heads=mixers[0].num_kv_heads,
        has_embed_norm=model.embed_norm is not None,
        is_layer_norm=is_layer_norm,
        is_gelu=config.feed_forward == "gelu",
        has_qk_norm=mixers[0].qk_norm,
        rotary_base=mixers[0].rotary_base or 0.0,
        logit_cap=float(config.logit_soft_cap),
    )


def _array(tensor: Tensor) -> Float32[np.ndarray, "..."]:
    out: np.ndarray = tensor.detach().contiguous().numpy()
    return out


def _stack(tensors: list[Tensor]) -> Float32[np.ndarray, "..."]:
    # one alone is not copied if it lies in the right order, as tables do.
    return _array(tensors[0])[None] if len(tensors) == 1 else _array(torch.stack(tensors))
