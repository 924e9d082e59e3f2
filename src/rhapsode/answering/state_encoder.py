"""The model's own states as an encoder: a weighted mean, under a head that two halves of a passage train.

    h = sum over tokens of u(t) [states that the head reads ; embeddings] / sum of u,    u(t) = a / (a + p(t))
    x = A (h - m), at unit length

p is how often a token occurs in the training text. A and m begin half-way to the whitening of h on it (Su et al. 2021,
arXiv:2103.15316), and A is then trained with InfoNCE (van den Oord et al. 2018, arXiv:1807.03748): each first half of a
passage must find its second half among those of the batch, and the other way round. The model itself is not changed.

Needs torch and the run. Shape letters: N texts, D model width, F = 2 D pooled features, M width of the encoder,
C vocabulary.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor

from rhapsode.config import Config, build_config, read_toml
from rhapsode.errors import StateError, UserError
from rhapsode.memory.encoders.files import damaged, load_arrays, read_header, save_arrays, write_header
from rhapsode.models.decoder import Decoder
from rhapsode.runfolder import RunFolder, hash_file, read_json
from rhapsode.text.tokenizer import Tokenizer, load_tokenizer
from rhapsode.training.checkpoint import load_weights
from rhapsode.training.config import Recipe

_BLOCK_TOKENS = 16_384
_SCALE = 0.02


class StateEncoderConfig(Config):
    """How the head over the states is trained."""

    width: int = Field(default=256, ge=1)
    """Width of a vector."""
    passages: int = Field(default=8_000, ge=16)
    """Passages of the training text whose halves are pairs."""
    passage_chars: int = Field(default=320, ge=32)
    """Characters of a passage."""
    rare_weight: float = Field(default=1e-2, gt=0)
    """a in the weight a / (a + p) of a token with probability p: smaller favours rare tokens more."""
    steps: int = Field(default=200, ge=0)
    """Optimizer steps of the head."""
    batch_size: int = Field(default=512, ge=2)
    """Pairs in a batch."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of Adam."""
    temperature: float = Field(default=0.05, gt=0)
    """Divides the cosines."""
    seed: int = 0
    """Of the order of the pairs."""


class StateEncoder:
    """Texts to unit vectors by a decoder's states; see the module.

    Rows may differ in the last bits with the other texts of a call, because matrix products round differently.
    """

    kind = "state"

    def __init__(
        self,
        run: RunFolder,
        decoder: Decoder,
        tokenizer: Tokenizer,
        head: "Head",
    ) -> None:
        """Store the parts; `decoder` is that of `run`."""
        self._run, self._decoder, self._tokenizer = run, decoder.eval().requires_grad_(False), tokenizer
        self._head = head
        self.width = len(head.projection)
        digest = hashlib.sha256(json.dumps([self.kind, hash_file(run.model), tokenizer.fingerprint]).encode())
        for _, array in sorted(head.arrays().items()):
            digest.update(array.tobytes())
        self.fingerprint = digest.hexdigest()

    @classmethod
    def train(cls, run: str | Path, texts: Iterable[str], config: StateEncoderConfig | None = None) -> "StateEncoder":
        """Train the head; most of the time goes into one pass of the model over `config.passages` passages.

        Args:
            run: folder of a trained run.
            texts: of the run's training part, read only as far as needed.

        Raises:
            UserError: if there is no run, or too little text for a batch of pairs.
        """
        config = config or StateEncoderConfig()
        folder = RunFolder(run).open()
        decoder, tokenizer = _load_model(folder)
        pairs = cut_pairs(texts, config)
        if len(pairs) < 16:
            raise UserError(
                f"the encoder must have at least 16 passages to train on; got {len(pairs)}. Give more text."
            )
        weights = count_weights(tokenizer, pairs, config.rare_weight)
        first = pool_states(decoder, tokenizer, weights, [pair[0] for pair in pairs])
        second = pool_states(decoder, tokenizer, weights, [pair[1] for pair in pairs])
        projection, mean = _whiten(torch.cat([first, second]), config.width)
        projection = _train_head(projection, first - mean, second - mean, config)
        return cls(folder, decoder, tokenizer, Head(projection, mean, weights))

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
        """Return a unit vector for each text; zeros for text without any token."""
        if len(texts) == 0:
            return np.zeros((0, self.width), dtype=np.float32)
        head = self._head
        pooled = pool_states(self._decoder, self._tokenizer, head.token_weights, texts)
        known = torch.tensor([bool(text.strip()) for text in texts])
        rows = torch.nn.functional.normalize((pooled - head.mean) @ head.projection.T, dim=1)
        return torch.where(known[:, None], rows, 0.0).numpy()

    def save(self, folder: str | Path) -> None:
        """Write the head and where its run is; the run is not copied."""
        folder = Path(folder)
        save_arrays(folder, self._head.arrays())
        # a run that is moved takes its encoder along.
        inside = folder.resolve().parent == self._run.path.resolve()
        write_header(folder, self, {"run": ".." if inside else str(self._run.path.resolve())})

    @classmethod
    def load(cls, folder: str | Path) -> "StateEncoder":
        """Read what `save` wrote, and the model of its run.

        Raises:
            UserError: if the run is gone.
            StateError: if a file is damaged, or the run has another model by now.
        """
        folder = Path(folder)
        header, arrays = read_header(folder, cls.kind), load_arrays(folder)
        run = RunFolder((folder / str(header.get("run"))).resolve()).open()
        decoder, tokenizer = _load_model(run)
        if {"projection", "mean", "token_weights"} - set(arrays):
            raise damaged(folder, "an array is missing")
        projection, mean, token_weights = (arrays[name] for name in ("projection", "mean", "token_weights"))
        size = 2 * _model_width(decoder)
        if projection.ndim != 2 or (projection.shape[1], *mean.shape) != (size, size):
            raise damaged(folder, "its arrays do not fit the model")
        if token_weights.shape != (tokenizer.vocab_size,):
            raise damaged(folder, "its arrays do not fit the tokenizer")
        encoder = cls(run, decoder, tokenizer, Head(*map(torch.from_numpy, (projection, mean, token_weights))))
        if encoder.fingerprint != header.get("fingerprint"):
            raise StateError(f"{folder} must belong to the model in {run.path}; one of them changed. Train it again.")
        return encoder


@dataclass(frozen=True)
class Head:
    """What is trained: A, m and u of the module's equations."""

    projection: Float[Tensor, "M F"]
    mean: Float[Tensor, " F"]
    token_weights: Float[Tensor, " C"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the parts by name, as they are saved."""
        return {name: value.numpy() for name, value in vars(self).items()}


def cut_pairs(texts: Iterable[str], config: StateEncoderConfig) -> list[tuple[str, str]]:
    """Cut texts into passages, each into halves at a space, and draw `config.passages` of them."""
    pairs: list[tuple[str, str]] = []
    chars = config.passage_chars
    for text in texts:
        for start in range(0, len(text) - chars // 2, chars):
            passage = text[start : start + chars].strip()
            middle = passage.find(" ", len(passage) // 2)
            if middle > 0 and passage[middle:].strip():
                pairs.append((passage[:middle], passage[middle:].strip()))
    return Random(config.seed).sample(pairs, min(config.passages, len(pairs)))


def count_weights(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], rare_weight: float) -> Float[Tensor, " C"]:
    """Return how much each token counts, by how often it occurs in `pairs`."""
    ids = np.concatenate([tokenizer.encode(half) for pair in pairs for half in pair]).astype(np.int64)
    share = np.bincount(ids, minlength=tokenizer.vocab_size) / len(ids)
    return torch.from_numpy((rare_weight / (rare_weight + share)).astype(np.float32))


def pool_states(
    decoder: Decoder, tokenizer: Tokenizer, token_weights: Float[Tensor, " C"], texts: Sequence[str]
) -> Float[Tensor, "N F"]:
    """Return the weighted mean of states and embeddings of each text, float32; zeros for a text without tokens.

    A text longer than the model's window is read in pieces, each from a fresh start. Texts of like length share a
    batch; padding stands at the end, where a causal model cannot see it from the text.
    """
    length = decoder.config.seq_len
    pieces = [
        (owner, ids[start : start + length])
        for owner, ids in enumerate(tokenizer.encode(text) for text in texts)
        for start in range(0, len(ids), length)
    ]
    pieces.sort(key=lambda piece: len(piece[1]))
    device = next(decoder.parameters()).device
    sums = torch.zeros(len(texts), 2 * _model_width(decoder))
    totals = torch.zeros(len(texts), 1)
    start = 0
    while start < len(pieces):
        stop = start + 1
        while stop < len(pieces) and (stop + 1 - start) * len(pieces[stop][1]) <= _BLOCK_TOKENS:
            stop += 1
        block = pieces[start:stop]
        owners = torch.tensor([owner for owner, _ in block])
        sizes = torch.tensor([len(ids) for _, ids in block])
        padded = np.full((len(block), int(sizes.max())), tokenizer.pad_id, dtype=np.int64)
        for row, (_, ids) in enumerate(block):
            padded[row, : len(ids)] = ids
        with torch.inference_mode():
            batch = torch.from_numpy(padded).to(device)
            states, _ = decoder.hidden(batch)
            embedded = decoder.embedder(batch, batch.new_zeros(len(batch), decoder.embedder.context))
            features = torch.cat([states.float(), embedded.float()], dim=2).cpu()
            inside = torch.arange(features.shape[1])[None, :] < sizes[:, None]
            weights = token_weights[torch.from_numpy(padded)] * inside
            sums.index_add_(0, owners, torch.einsum("btf,bt->bf", features, weights))
            totals.index_add_(0, owners, weights.sum(1, keepdim=True))
        start = stop
    return sums / totals.clamp(min=1e-9)


def _whiten(rows: Float[Tensor, "N F"], width: int) -> tuple[Float[Tensor, "M F"], Float[Tensor, " F"]]:
    mean = rows.mean(0)
    values, directions = torch.linalg.eigh(torch.cov((rows - mean).T.double()))
    size = min(width, len(values))
    kept, scales = directions.T.flip(0)[:size], values.flip(0)[:size].clamp(min=1e-9 * float(values[-1]) + 1e-12)
    projection = torch.zeros(width, rows.shape[1])
    # half-way to whitening: the last directions are noise, and noise should not count as much as the first.
    projection[:size] = (kept / scales[:, None] ** 0.25).float()
    # cosines do not see the scale; this one suits the learning rate.
    return projection * (_SCALE / projection.std()), mean


def _train_head(
    projection: Float[Tensor, "M F"],
    first: Float[Tensor, "N F"],
    second: Float[Tensor, "N F"],
    config: StateEncoderConfig,
) -> Float[Tensor, "M F"]:
    generator = torch.Generator().manual_seed(config.seed)
    weight = projection.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([weight], lr=config.learning_rate)
    batch_size = min(config.batch_size, len(first))
    targets = torch.arange(batch_size)
    for step in range(config.steps):
        chosen = torch.randperm(len(first), generator=generator)[:batch_size]
        one = torch.nn.functional.normalize(first[chosen] @ weight.T, dim=1)
        other = torch.nn.functional.normalize(second[chosen] @ weight.T, dim=1)
        cosines = one @ other.T / config.temperature
        loss = torch.nn.functional.cross_entropy(cosines, targets) + torch.nn.functional.cross_entropy(
            cosines.T, targets
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - step / config.steps)
        optimizer.step()
    return weight.detach()


def _model_width(decoder: Decoder) -> int:
    width = decoder.config.width
    assert width is not None
    return width


def _load_model(folder: RunFolder) -> tuple[Decoder, Tokenizer]:
    header = read_json(folder.run)
    if header.get("kind", "decoder") != "decoder":
        raise UserError(f"the encoder state must have a decoder's states; {folder.path} is a field. Use static.")
    recipe = build_config(Recipe, read_toml(folder.recipe))
    decoder = Decoder(recipe.model)
    load_weights(folder.model, decoder, header.get("weights_sha256"))
    return decoder, load_tokenizer(folder.tokenizer)
