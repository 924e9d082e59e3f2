"""A language model of four parts: embed, mix, (remember), predict."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.errors import StateError
from rhapsode.models.config import ModelConfig
from rhapsode.nn.block import Block
from rhapsode.nn.config import EMBEDDERS, FEED_FORWARDS, HEADS, MIXERS
from rhapsode.nn.contracts import Mixer
from rhapsode.nn.heads import TiedHead, soft_cap
from rhapsode.nn.linear import Linear
from rhapsode.nn.norm import NORMS, LayerNorm
from rhapsode.ops.cross_entropy import cross_entropy


@dataclass(frozen=True)
class DecoderState:
    """What a decoder carries between calls. Never changed in place.

    `position` is the number of the next token; `history` int64 (B, context + added) ends with the ids of
    the last call, and `history_segments` with their document numbers, if there are any; `mixers` has one
    state a layer.
    """

    position: int
    history: Tensor
    history_segments: Tensor | None
    added: int
    mixers: tuple[Any, ...]


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
        self.embedder = EMBEDDERS.load(config.embed)(vocab_size, width, config.hashed_ngrams)
        learned = config.attention.positions == "learned"
        self.position_table = nn.Embedding(config.seq_len, width) if learned else None
        self.embed_norm = NORMS[config.norm](width) if config.embed_norm else None
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.norm,
                MIXERS.load(config.mixer_of(layer))(width, num_heads, config.seq_len, config.attention),
                FEED_FORWARDS.load(config.feed_forward)(width, config.mlp_ratio),
            )
            for layer in range(num_layers)
        )
        self.final_norm = NORMS[config.norm](width)
        self.head = HEADS.load(config.predict)(width, vocab_size, self.embedder.table)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        state: DecoderState | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T C"], DecoderState]:
        """Return float32 logits of the id after each position, and the state to go on from.

        Args:
            ids: int64; they follow those of `state`.
            segments: document numbers; nothing passes from one document to another.
        """
        hidden, state = self.hidden(ids, state, segments)
        return self.logits(hidden), state

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        state: DecoderState | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], DecoderState]:
        """Return the normalised vectors that the head reads, in `compute_dtype`, and the new state.

        Raises:
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
        past, past_segments = self._past(ids, state, segments)
        positions = torch.arange(start, start + length, device=ids.device)
        x = self.embedder(ids, past, segments, past_segments)
        if self.position_table is not None:
            x = x + self.position_table(positions)
        x = x.to(self.compute_dtype)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        mixers = []
        for layer, block in enumerate(self.blocks):
            x, mixer_state = block(x, None if state is None else state.mixers[layer], positions, segments)
            mixers.append(mixer_state)
        history = torch.cat([past, ids], dim=1)
        numbers = None if segments is None else torch.cat([past_segments, segments], dim=1)
        return self.final_norm(x), DecoderState(start + length, history, numbers, length, tuple(mixers))

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
        return soft_cap(self.head(hidden).float(), self.config.logit_soft_cap)

    def loss(
        self,
        ids: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        segments: Int[Tensor, "B T"] | None = None,
        chunk_size: int = 0,
    ) -> Float[Tensor, "B T"]:
        """Return the negative log-probability of each target in nats, float32.

        Args:
            chunk_size: hold at most this many rows of logits at once; 0 holds all (see `cross_entropy`).
        """
        hidden, _ = self.hidden(ids, segments=segments)
        return cross_entropy(hidden.flatten(0, 1), targets.flatten(), self.logits, chunk_size).view(targets.shape)

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
                cast(Mixer, block.mixer).rewind(mixer_state, keep)
                for block, mixer_state in zip(self.blocks, state.mixers, strict=True)
            ),
        )

    def num_parameters(self) -> int:
        """Return the number of scalars, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Fill every parameter. All of initialisation is this table.

        zero_outputs: embeddings N(0, 1), n-gram tables of the model's width 0, matrices uniform with
        variance 1 / inputs, the last matrix of each half layer and the head 0: at the start every layer is
        the identity and every token equally likely. gpt2: N(0, 0.02), last matrices by 1 / sqrt(2 layers)
        (Radford et al. 2019).
        """
        gpt2 = self.config.init == "gpt2"
        last_scale = (2 * len(self.blocks)) ** -0.5
        for name, module in self.named_modules():
            last = name.endswith(("mixer.out", "feed_forward.down"))
            if isinstance(module, nn.Embedding):
                if "ngram_tables" in name and self.embedder.projections is None:
                    module.weight.zero_()
                else:
                    tied = isinstance(self.head, TiedHead) and module is self.embedder.table
                    module.weight.normal_(std=0.02 if gpt2 or tied else 1.0, generator=generator)
            elif isinstance(module, Linear):
                if gpt2:
                    module.weight.normal_(std=0.02 * (last_scale if last else 1.0), generator=generator)
                elif last or name.startswith("head."):
                    module.weight.zero_()
                else:
                    bound = (3 / module.weight.shape[1]) ** 0.5
                    module.weight.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, LayerNorm):
                module.gain.fill_(1.0)
                module.bias.zero_()


def build_decoder(config: ModelConfig, seed: int, device: torch.device | str = "cpu") -> Decoder:
    """Build a decoder with fresh weights.

    The weights are drawn on the CPU, so that one seed gives one model on every device.
    """
    model = Decoder(config)
    model.init_weights(torch.Generator().manual_seed(seed))
    return model.to(device)


def _solved(config: ModelConfig, name: str) -> int:
    size = getattr(config, name)
    if not isinstance(size, int):
        raise ValueError(f"model.{name} must be solved before the model is built.")
    return size
