"""A language model of four parts: embed, mix, (remember), predict."""

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.errors import StateError, UserError
from rhapsode.models.config import ModelConfig
from rhapsode.nn.block import Block
from rhapsode.nn.config import (
    EMBEDDERS,
    FEED_FORWARDS,
    HEADS,
    MIXERS,
)
from rhapsode.nn.contracts import Mixer
from rhapsode.nn.heads import TiedHead, soft_cap
from rhapsode.nn.linear import Linear
from rhapsode.nn.linear_attention import GatedLinearAttention
from rhapsode.nn.norm import NORMS, LayerNorm
from rhapsode.ops.cross_entropy import cross_entropy


@dataclass(frozen=True)
class DecoderState:
    """What a decoder carries between calls. Never changed in place.

    `position` is the number of the next token; `history` int64 (B, context + added) ends with the ids of
    the last call, and `history_segments` with their document numbers, if there are any; `mixers` has one
    state a layer, and one for each latent step; `prefix` positions that are no tokens came with the last call.
    """

    position: int
    history: Tensor
    history_segments: Tensor | None
    added: int
    mixers: tuple[Any, ...]
    prefix: int = 0


class Decoder(nn.Module):
    """ids -> vectors -> logits.

    Weights are float32; the residual stream has `compute_dtype`, which the caller chooses.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vocab_size, width = _solved(config, "vocab_size"), _solved(config, "width")
        num_layers, num_heads = _solved(config, "num_layers"), _solved(config, "num_heads")
        self.config = config
        self.compute_dtype = torch.float32
        self.vocab_size = vocab_size
        self.embedder = EMBEDDERS.load(config.token_embedder)(vocab_size, width, config.embed_settings)
        if config.streams:
            around = EMBEDDERS.load(config.embed)
            self.embedder = around(self.embedder, config.hypervector_stream, config.seq_len)
        # positions made of bundles, in front of the first token.
        self.prefix_len: int = self.embedder.prefix_len if config.streams else 0
        reach = config.seq_len + self.prefix_len
        learned = config.attention.positions == "learned"
        self.position_table = nn.Embedding(config.seq_len, width) if learned else None
        self.embed_norm = NORMS[config.norm](width) if config.embed_norm else None
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.norm,
                MIXERS.load(config.mixer_of(layer))(width, num_heads, reach, config.attention),
                FEED_FORWARDS.load(config.feed_forward)(width, config.mlp_ratio),
            )
            for layer in range(num_layers + (config.latent_steps > 0))
        )
        # which block comes when: every layer once, then the last one over and over if there are latent steps.
        self.order = [*range(num_layers), *[num_layers] * config.latent_steps]
        self.final_norm = NORMS[config.norm](width)
        self.head = HEADS.load(config.predict)(width, vocab_size, self.embedder.table, config.factored)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        state: DecoderState | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        bundles: Float[Tensor, "B *L M"] | None = None,
    ) -> tuple[Float[Tensor, "B T C"], DecoderState]:
        """Return float32 logits of the id after each position, and the state to go on from.

        Args:
            ids: int64; they follow those of `state`.
            segments: document numbers; nothing passes from one document to another.
            bundles: of what stands before `ids`, for a model that streams; in the first call of a sequence only.
        """
        hidden, state = self.hidden(ids, state, segments, bundles)
        return self.logits(hidden), state

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        state: DecoderState | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        bundles: Float[Tensor, "B *L M"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], DecoderState]:
        """Return the normalised vectors that the head reads, in `compute_dtype`, and the new state.

        Raises:
            UserError: if an id is not of the vocabulary, bundles are given to a model that does not stream, or the
                model predicts from bundles alone.
            StateError: if the model numbers its positions and the sequence has more than it knows.
        """
        start = 0 if state is None else state.position
        length = ids.shape[1]
        limit = self.config.max_positions
        if limit is not None and start + length > limit:
            raise StateError(
                f"a sequence must fit model.seq_len with learned positions; got {start + length} ids for {limit}. "
                "Shorten it or use a recipe with rotary positions."
            )
        self._check_bundles(state, bundles)
        self._check_ids(ids)
        past, past_segments = self._past(ids, state, segments)
        x = self.embedder(ids, past, segments, past_segments)
        if self.position_table is not None:
            x = x + self.position_table(torch.arange(start, start + length, device=ids.device))
        prefix = self.prefix_len if state is None else 0
        numbers = segments
        if prefix:
            x = torch.cat([self.embedder.prefix(bundles, ids.shape[0]).to(x.dtype), x], dim=1)
            if segments is not None:
                numbers = torch.cat([segments[:, :1].expand(-1, prefix), segments], dim=1)
        hidden, mixers = self._mix(x, state, numbers)
        history = torch.cat([past, ids], dim=1)
        joined = None if segments is None else torch.cat([past_segments, segments], dim=1)
        new_state = DecoderState(start + length, history, joined, length, mixers, prefix)
        return hidden[:, prefix:], new_state

    def _mix(
        self, x: Float[Tensor, "B T D"], state: DecoderState | None, segments: Int[Tensor, "B T"] | None
    ) -> tuple[Float[Tensor, "B T D"], tuple[Any, ...]]:
        """Run T positions, those of bundles included, through all layers."""
        start = 0 if state is None else state.position + self.prefix_len
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        x = x.to(self.compute_dtype)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        mixers = []
        for step, layer in enumerate(self.order):
            x, mixer_state = self.blocks[layer](x, None if state is None else state.mixers[step], positions, segments)
            mixers.append(mixer_state)
        return self.final_norm(x), tuple(mixers)

    def _check_bundles(self, state: DecoderState | None, bundles: Tensor | None) -> None:
        if self.config.streams and self.config.hypervector_stream.mode == "parallel":
            raise UserError(
                "model.hypervector_stream.mode must be prefix to read tokens one after another; got parallel. "
                "Ask for bundle_logits, or train with mode=prefix."
            )
        if bundles is not None and not self.config.streams:
            raise UserError(
                f"bundles must go to a model with model.embed = hypervector_stream; got {self.config.embed}. "
                "Leave them out."
            )
        if bundles is not None and state is not None:
            raise StateError("bundles must come with the first call of a sequence; they came with a later one.")

    def _check_ids(self, ids: Tensor) -> None:
        # elsewhere looking at them would wait for the device, which refuses them itself.
        if torch.compiler.is_compiling() or not ids.numel() or ids.device.type != "cpu":
            return
        if ids.is_floating_point():
            raise UserError(f"ids and labels must be whole numbers; got {ids.dtype}. Give int64.")
        low, high = (int(value) for value in torch.aminmax(ids))
        if low < 0 or high >= self.vocab_size:
            raise UserError(
                f"token ids must lie between 0 and {self.vocab_size - 1}; got {low} to {high}. "
                "Use the tokenizer of this model."
            )

    def bundle_logits(self, bundles: Float[Tensor, "B *L M"], labels: Int[Tensor, "N S"]) -> Float[Tensor, "N S C"]:
        """Return float32 logits of the S tokens that follow the bundled past.

        Args:
            bundles: (B, M), or (B, L, M) with the oldest first.
            labels: int64. In parallel mode they say how many and nothing else. In prefix mode they are read, and
                logits p depend on labels before p alone.

        Raises:
            UserError: if shapes do not fit each other or the model.
        """
        return self.logits(self._bundle_hidden(bundles, labels))

    def _bundle_hidden(self, bundles: Float[Tensor, "B *L M"], labels: Int[Tensor, "N S"]) -> Float[Tensor, "N S D"]:
        if not self.config.streams:
            self._check_bundles(None, bundles)
        if labels.ndim != 2 or labels.shape[0] != bundles.shape[0] or labels.shape[1] < 1:
            raise UserError(
                f"labels must have one row of at least one id for each bundle; got shape {tuple(labels.shape)} for "
                f"bundles of shape {tuple(bundles.shape)}. Give the S ids that follow each bundle as (B, S)."
            )
        self._check_ids(labels)
        front = self.embedder.prefix(bundles, bundles.shape[0])
        if self.config.hypervector_stream.mode == "parallel":
            rest = self.embedder.parallel(bundles, labels.shape[1])
        else:
            past, _ = self._past(labels, None, None)
            rest = self.embedder(labels[:, :-1], past)
            if self.position_table is not None:
                rest = rest + self.position_table.weight[: rest.shape[1]]
        hidden, _ = self._mix(torch.cat([front, rest.to(front.dtype)], dim=1), None, None)
        return hidden[:, -labels.shape[1] :]

    def _past(self, ids: Tensor, state: DecoderState | None, segments: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the ids before these that the embedder looks at, and their document numbers.

        Before the beginning stands id 0, which belongs to no document.
        """
        context = self.embedder.context
        if state is None:
            empty = ids.new_zeros(ids.shape[0], context)
            return empty, torch.full_like(empty, -1) if segments is None else segments.new_full(empty.shape, -1)
        if (segments is None) != (state.history_segments is None):
            raise StateError("segments must be given in every call of a sequence or in none; they were in some.")
        start = state.history.shape[1] - context
        numbers = state.history if state.history_segments is None else state.history_segments
        return state.history[:, start:], numbers[:, start:]

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Return float32 logits for vectors from `hidden`."""
        return self._logits(hidden, None)

    def _logits(self, hidden: Float[Tensor, "*N D"], table: Float[Tensor, "C D"] | None) -> Float[Tensor, "*N C"]:
        raw = self.head(hidden) if table is None else F.linear(hidden, table.to(hidden.dtype))
        return soft_cap(raw.float(), self.config.logit_soft_cap)

    def loss(
        self,
        ids: Int[Tensor, "B T"] | Float[Tensor, "B *L M"],
        targets: Int[Tensor, "N S"],
        segments: Int[Tensor, "B T"] | None = None,
        chunk_size: int = 0,
        bundles: Float[Tensor, "B *L M"] | None = None,
    ) -> Float[Tensor, "N S"]:
        """Return the negative log-probability of each target in nats, float32.

        Args:
            ids: what stands before each target; or bundles, float, and then the targets are what follows them.
            chunk_size: hold at most this many rows of logits at once; 0 holds all (see `cross_entropy`).
            bundles: of what stands before `ids`. A model in parallel mode reads them and no ids.

        Raises:
            UserError: as `hidden` and `bundle_logits`.
        """
        if ids.is_floating_point():
            hidden = self._bundle_hidden(ids, targets)
        elif self.config.streams and self.config.hypervector_stream.mode == "parallel":
            if bundles is None:
                bundles = self.embedder.table.weight.new_zeros(ids.shape[0], self.embedder.hd_dim)
            hidden = self._bundle_hidden(bundles, targets)
        else:
            hidden, _ = self.hidden(ids, segments=segments, bundles=bundles)
            self._check_ids(targets)
        # once a step, and not once a chunk: a compressed embedding has to make its table first.
        table = self.head.table if isinstance(self.head, TiedHead) else None
        head = partial(self._logits, table=table)
        return cross_entropy(hidden.flatten(0, 1), targets.flatten(), head, chunk_size).view(targets.shape)

    @torch.no_grad()
    def encode_past(
        self, past: Int[Tensor, "B R"], ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B L M"] | None:
        """Return the bundles that a window is trained and scored with, or None for a model that does not stream.

        Args:
            past: ids before the window, 0 where there are none.
            ids, targets: the window.
        """
        if not self.config.streams:
            return None
        settings = self.config.hypervector_stream
        if settings.task == "reconstruct":
            past = targets
        elif settings.mode == "parallel":
            # all that stands before the first target.
            past = torch.cat([past, ids[:, :1]], dim=1)
        out: Tensor = self.embedder.encode(past)
        return out

    def rewind(self, state: DecoderState, keep: int) -> DecoderState:
        """Return the state as if the last call had been given only its first `keep` ids."""
        drop = state.added - keep
        end = state.history.shape[1] - drop
        return DecoderState(
            state.position - drop,
            state.history[:, :end],
            None if state.history_segments is None else state.history_segments[:, :end],
            keep,
            tuple(
                cast(Mixer, self.blocks[layer].mixer).rewind(mixer_state, keep + state.prefix)
                for layer, mixer_state in zip(self.order, state.mixers, strict=True)
            ),
            state.prefix,
        )

    def num_parameters(self) -> int:
        """Return the number of scalars, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter. All of initialisation is this table.

        zero_outputs: embeddings N(0, 1), n-gram tables of the model's width 0, matrices uniform with
        variance 1 / inputs, the last matrix of each half layer and the head 0: at the start every layer is
        the identity and every token equally likely; decays of linear attention are spread. gpt2: N(0, 0.02),
        last matrices by 1 / sqrt(2 layers)
        (Radford et al. 2019).
        """
        gpt2 = self.config.init == "gpt2"
        last_scale = (2 * len(self.blocks)) ** -0.5
        tokens = self.embedder.tokens if self.config.streams else self.embedder
        for name, module in self.named_modules():
            last = name.endswith(("mixer.out", "feed_forward.down"))
            if isinstance(module, nn.Embedding):
                if "ngram_tables" in name and tokens.projections is None:
                    module.weight.zero_()
                else:
                    # tied, an n-gram table is still none that logits are read from.
                    tied = isinstance(self.head, TiedHead) and name.startswith("embedder.") and "ngram" not in name
                    # of tables that are multiplied, each has its part of the size.
                    factors = getattr(self.embedder, "num_factors", 1) if name.startswith("embedder.") else 1
                    std = (0.02 if gpt2 or tied else 1.0) ** (1 / factors)
                    module.weight.normal_(std=std, generator=generator)
            elif isinstance(module, Linear):
                if gpt2:
                    module.weight.normal_(std=0.02 * (last_scale if last else 1.0), generator=generator)
                elif last or name in {"head.linear", "head.logits"}:
                    module.weight.zero_()
                else:
                    bound = (3 / module.weight.shape[1]) ** 0.5
                    module.weight.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, GatedLinearAttention):
                module.init_decays()
            elif isinstance(module, LayerNorm):
                module.gain.fill_(1.0)
                module.bias.zero_()
        if self.config.embed == "holographic" and self.config.holographic.store is not None:
            # imported here: only such a model reads files while it is built.
            from rhapsode.nn.holographic_files import start_from

            start_from(self.embedder.table, self.config.holographic)


def build_decoder(config: ModelConfig, seed: int, device: torch.device | str = "cpu") -> Decoder:
    """Build a decoder with fresh weights.

    The weights are drawn on the CPU, so that one seed gives one model on every device.
    """
    if config.streams:
        for sentence in config.hypervector_stream.capacity_warnings():
            warnings.warn(sentence, stacklevel=2)
    model = Decoder(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.to(device)


def _solved(config: ModelConfig, name: str) -> int:
    size = getattr(config, name)
    if not isinstance(size, int):
        raise ValueError(f"model.{name} must be solved before the model is built.")
    return size
