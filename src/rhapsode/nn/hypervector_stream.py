"""A past of any length as a few hypervectors, and these as vectors of the model's width.

What stands here is holographic (Plate 1995, doi 10.1109/72.377968) used as a soft prompt (Li & Liang 2021, arXiv
2101.00190) that the text before the context writes. A bundle of M numbers saves no bytes against the ids of its tokens;
what it has is one size, whatever the length of the stream.

Shape letters: B batch, T tokens, R tokens of the past, L bundles, M hypervector size, D width, P positions made of
bundles, C vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.errors import UserError
from rhapsode.nn.config import HypervectorStreamConfig
from rhapsode.nn.embedders import HashedNgramEmbedder, TableEmbedder
from rhapsode.nn.linear import Linear
from rhapsode.ops.bundles import age_bundle, encode_bundle, half_life_decay, token_keys, unbind_ages
from rhapsode.ops.hypervector import ALGEBRAS

# keys of the whole vocabulary are kept up to this size; beyond, those of a call's tokens are made anew.
MAX_KEPT_KEYS_BYTES = 1 << 28
# the id that begins a document: what stands before it is another document's past.
DOCUMENT_START = 1


@dataclass(frozen=True)
class StreamState:
    """What is kept of a stream: as many bytes after ten tokens as after ten million. Never changed in place.

    `recent` int64 (B, num_bundles x chunk), the last ids, 0 where there are none; `decayed` float32 (B, K, M), one
    bundle of all ids for each timescale.
    """

    recent: Tensor
    decayed: Tensor


class HypervectorStreamEmbedder(nn.Module):
    """Another embedder's vectors, and positions in front of the tokens that are read from bundles of the past.

    A bundle of M = m D numbers makes m positions. Position p of a bundle gets

        unbind:     W unbind(bundle, key_p) + e_p       key_p: the ages of the p-th of m groups of the chunk's tokens
        broadcast:  W bundle + e_p                      the same vector at every position
        learned:    W_p bundle[p D : (p + 1) D] + e_p   a matrix a position

    W has M x D parameters in each of the three. Keys are regenerated from (seed, id) and are no parameters.
    """

    def __init__(
        self,
        tokens: TableEmbedder | HashedNgramEmbedder,
        config: HypervectorStreamConfig,
        seq_len: int,
    ) -> None:
        super().__init__()
        if config.hd_dim is None:
            raise ValueError("model.hypervector_stream.hd_dim must be solved before the model is built.")
        self.tokens = tokens
        self.context = tokens.context
        vocab_size, width = tokens.table.weight.shape
        config.check_width(width)
        self.config = config
        self.hd_dim = config.hd_dim
        self.vocab_size = vocab_size
        self.num_bundles = config.num_bundles + len(config.timescales)
        self.per_bundle = self.hd_dim // width
        self.prefix_len = self.num_bundles * self.per_bundle
        self.past_tokens = config.past_tokens
        self.slots = nn.Embedding(self.prefix_len, width)
        # the positions that parallel mode predicts at.
        self.queries = nn.Embedding(seq_len, width) if config.mode == "parallel" else None
        if config.adapter == "learned":
            self.reads = nn.ModuleList(Linear(width, width) for _ in range(self.per_bundle))
        else:
            self.reads = nn.ModuleList([Linear(self.hd_dim, width)])
        self._algebra = ALGEBRAS[config.algebra](self.hd_dim, config.seed)
        self._kept: Tensor | None = None

    @property
    def table(self) -> nn.Embedding:
        """The tokens' own vectors."""
        return self.tokens.table

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        past: Int[Tensor, "B P"],
        segments: Int[Tensor, "B T"] | None = None,
        past_segments: Int[Tensor, "B P"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the tokens' vectors, as their embedder does."""
        vectors: Tensor = self.tokens(ids, past, segments, past_segments)
        return vectors

    def start(self, batch: int) -> StreamState:
        """Return the state of a stream that holds nothing."""
        device = self.table.weight.device
        size = self.config.num_bundles * self.config.chunk
        return StreamState(
            torch.zeros(batch, size, dtype=torch.int64, device=device),
            torch.zeros(batch, len(self.config.timescales), self.hd_dim, device=device),
        )

    @torch.no_grad()
    def advance(self, state: StreamState, ids: Int[Tensor, "B T"]) -> StreamState:
        """Return the state after T more tokens. Costs O(B T K M), nothing but a copy without timescales.

        A document's start empties the stream of what came before.

        Raises:
            UserError: if an id is not of the vocabulary.
        """
        self._check(ids)
        inside, goes_on = _since_start(ids)
        ids = torch.where(inside, ids, 0)
        joined = torch.cat([torch.where(goes_on, state.recent, 0), ids], dim=1)
        keys, rows = self._keys_of(ids) if self.config.timescales else (None, None)
        decayed = [state.decayed[:, :0]]
        for index, half_life in enumerate(self.config.timescales):
            assert keys is not None
            assert rows is not None
            decay = half_life_decay(half_life)
            old = age_bundle(state.decayed[:, index], ids.shape[1], decay)
            new = torch.where(goes_on, old, 0.0) + encode_bundle(keys, rows, decay)
            decayed.append(new[:, None])
        return StreamState(joined[:, -state.recent.shape[1] :], torch.cat(decayed, dim=1))

    @torch.no_grad()
    def bundles(self, state: StreamState) -> Float[Tensor, "B L M"]:
        """Return the bundles of a stream: the latest tokens in chunks, the oldest first, then a bundle a timescale."""
        batch = state.recent.shape[0]
        keys, rows = self._keys_of(state.recent)
        chunks = encode_bundle(keys, rows.reshape(-1, self.config.chunk))
        return torch.cat([chunks.view(batch, self.config.num_bundles, self.hd_dim), state.decayed], dim=1)

    def encode(self, past: Int[Tensor, "B R"]) -> Float[Tensor, "B L M"]:
        """Return the bundles of a stream of which `past` is all: ids, 0 where there are none. O(B R M)."""
        return self.bundles(self.advance(self.start(past.shape[0]), past))

    def prefix(self, bundles: Float[Tensor, "B *L M"] | None, batch: int) -> Float[Tensor, "B P D"]:
        """Return the positions that stand in front of the tokens; without bundles, those of an empty past.

        Raises:
            UserError: if the size or number of the bundles is not the model's, or there are others than `batch`.
        """
        if bundles is None:
            bundles = self.table.weight.new_zeros(batch, self.num_bundles, self.hd_dim)
        if len(bundles) != batch:
            raise UserError(
                f"bundles must be as many as rows of ids; got {len(bundles)} and {batch}. Give those of each row."
            )
        bundles = self.complete(bundles)
        chunk, count = self.config.chunk, self.per_bundle
        if self.config.adapter == "unbind":
            ages = torch.arange(chunk, device=bundles.device)
            # the youngest tokens are read last, next to the text that follows them; a token is read once.
            group = (count - 1 - ages * count // chunk)[None] == torch.arange(count, device=bundles.device)[:, None]
            weights = group.to(bundles.dtype) / group.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
            vectors: Tensor = self.reads[0](self._scaled(weights @ unbind_ages(bundles, ages)))
        elif self.config.adapter == "broadcast":
            vectors = self.reads[0](self._scaled(bundles))[:, :, None].expand(-1, -1, count, -1)
        else:
            parts = self._scaled(bundles).view(*bundles.shape[:2], count, -1)
            vectors = torch.stack([read(parts[:, :, p]) for p, read in enumerate(self.reads)], dim=2)
        return vectors.flatten(1, 2) + self.slots.weight

    def parallel(self, bundles: Float[Tensor, "B *L M"], length: int) -> Float[Tensor, "B T D"]:
        """Return `length` positions to predict that many tokens at: position p reads the p-th of as many last tokens.

        Raises:
            UserError: if the model does not work in parallel mode, or has not as many positions.
        """
        if self.queries is None:
            raise UserError(
                "model.hypervector_stream.mode must be parallel to predict from bundles alone; got prefix. "
                "Train with --set model.hypervector_stream.mode=parallel."
            )
        if length > self.queries.num_embeddings:
            raise UserError(
                f"labels must fit model.seq_len in parallel mode; got {length} for {self.queries.num_embeddings}. "
                "Shorten them or train with a larger seq_len."
            )
        bundles = self.complete(bundles)
        chunk, count = self.config.chunk, self.per_bundle
        size = self.config.num_bundles * chunk
        place = (torch.arange(length, device=bundles.device) + size - length) % size
        chosen = bundles[:, place // chunk]
        if self.config.adapter == "unbind":
            turned = torch.arange(self.hd_dim, device=bundles.device) + (chunk - 1 - place % chunk)[:, None]
            chosen = chosen.gather(2, (turned % self.hd_dim).expand_as(chosen))
        if self.config.adapter == "learned":
            parts = self._scaled(chosen).view(*chosen.shape[:2], count, -1)
            vectors: Tensor = torch.stack([self.reads[p % count](parts[:, p, p % count]) for p in range(length)], dim=1)
        else:
            vectors = self.reads[0](self._scaled(chosen))
        return vectors + self.queries.weight[:length]

    def complete(self, bundles: Float[Tensor, "B *L M"]) -> Float[Tensor, "B L M"]:
        """Return bundles (B, M) or fewer than the model reads as (B, L, M), with empty ones in front.

        Raises:
            UserError: if their size or number is not the model's.
        """
        shaped = bundles[:, None] if bundles.ndim == 2 else bundles
        if shaped.ndim != 3 or shaped.shape[-1] != self.hd_dim or shaped.shape[1] > self.num_bundles:
            raise UserError(
                f"bundles must have model.hypervector_stream.hd_dim = {self.hd_dim} numbers, and be at most "
                f"{self.num_bundles}; got shape {tuple(bundles.shape)}. Make them with the same model's encode."
            )
        missing = self.num_bundles - shaped.shape[1]
        return torch.cat([shaped.new_zeros(shaped.shape[0], missing, self.hd_dim), shaped], dim=1)

    def _scaled(self, bundles: Tensor) -> Tensor:
        """Numbers of size one for a full chunk, in the precision of the weights."""
        return bundles * math.sqrt(self.hd_dim / self.config.chunk)

    def _keys_of(self, ids: Int[Tensor, "B T"]) -> tuple[Float[Tensor, "U M"], Int[Tensor, "B T"]]:
        """Return keys, and the row of each id in them."""
        if self.vocab_size * self.hd_dim * 4 > MAX_KEPT_KEYS_BYTES:
            distinct, rows = torch.unique(ids, return_inverse=True)
            return token_keys(self._algebra, distinct), rows
        if self._kept is None or self._kept.device != ids.device:
            self._kept = token_keys(self._algebra, torch.arange(self.vocab_size, device=ids.device))
        return self._kept, ids

    def _check(self, ids: Tensor) -> None:
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size):
            raise UserError(
                f"ids must lie between 0 and {self.vocab_size - 1}; got {int(ids.min())} to {int(ids.max())}. "
                "Use the tokenizer they came from."
            )


def _since_start(ids: Int[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
    """Return (B, T), true for the ids from the last document's start on, and (B, 1), true where none starts."""
    starts = (ids == DOCUMENT_START).long()
    later = starts.flip(1).cumsum(dim=1).flip(1) - starts
    return later == 0, starts.sum(dim=1, keepdim=True) == 0
