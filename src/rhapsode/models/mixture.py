"""A model and its token memories as one predictor.

Where the gate is closed for every memory, the model's own logits tensor is handed on: the same object, untouched.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Float64, Int64
from torch import Tensor

from rhapsode.errors import UserError
from rhapsode.memory.token_contracts import AnyTokenMemory, TokenPredictions
from rhapsode.models.decoder import Decoder
from rhapsode.models.gate import Gate, GateInputs, fit_gate, gate_inputs
from rhapsode.text.batches import sliding_windows
from rhapsode.text.shards import TokenArray

# logits of calibration text that a geometric gate is fitted on; more text than this is thinned out evenly.
_MAX_CALIBRATION_BYTES = 1 << 29
_BATCH_SIZE = 16


@dataclass(frozen=True)
class MixtureScores:
    """Log-probabilities in nats of every token but the first, and the gate after the last."""

    mixture: Float64[np.ndarray, " N"]
    model: Float64[np.ndarray, " N"]
    gate: Gate


class Mixture:
    """Mixes token memories into a model's predictions. States are those of the memories, in order; never changed.

    The model itself is passed in where it is needed, so that one mixture serves any way of running it.
    """

    def __init__(self, memories: Sequence[AnyTokenMemory], gate: Gate) -> None:
        """Store the parts.

        Raises:
            UserError: if the gate is for another number of memories, or their vocabularies differ.
        """
        check_memories(memories)
        if gate.num_memories != len(memories):
            raise UserError(
                f"the gate must be fitted for these {len(memories)} memories; got one for {gate.num_memories}. "
                "Fit it again."
            )
        self.memories = tuple(memories)
        self.gate = gate

    def start(self, ids: Int64[np.ndarray, " N"], hidden: Float[np.ndarray, "N D"] | None = None) -> tuple[Any, ...]:
        """Return the states after `ids`; see `TokenMemory.start`."""
        return tuple(memory.start(ids, hidden) for memory in self.memories)

    def advance(
        self, states: tuple[Any, ...], token_id: int, hidden: Float[np.ndarray, " D"] | None = None
    ) -> tuple[Any, ...]:
        """Return the states after one more id."""
        pairs = zip(self.memories, states, strict=True)
        return tuple(memory.advance(state, token_id, hidden) for memory, state in pairs)

    def mix(self, logits: Float[Tensor, " C"], states: tuple[Any, ...]) -> Float[Tensor, " C"]:
        """Return the log-probabilities of the next id, or `logits` itself if the gate is closed for every memory."""
        found = []
        for memory, state in zip(self.memories, states, strict=True):
            one = memory.predict(state)
            found.append(
                TokenPredictions(
                    one.log_probabilities.astype(np.float32)[None],
                    np.array([one.match_length]),
                    np.array([one.count]),
                )
            )
        if all(one.match_lengths[0] < self.gate.min_match_length for one in found):
            return logits
        ours = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()[None]
        mixed = self.gate.mix(gate_inputs(ours, found, self.gate.min_match_length))[0]
        return torch.from_numpy(mixed).to(logits)

    def score(
        self,
        model: Decoder,
        tokens: TokenArray,
        *,
        learn_as: Sequence[int | None] = (),
        rate: float = 0.0,
        stride: int | None = None,
    ) -> MixtureScores:
        """Score every token but the first, with windows as `score_tokens` has them.

        Args:
            learn_as: for each memory, the number of the row that it makes of the text, each token scored before it is
                learnt; or None. Nothing learns if it is left out.
            rate: of the gate's learning, see `Gate.learn`: 1 as measured best, 0 leaves the gate as it is.

        Returns:
            the scores. Cost of the model: O(N seq_len / stride) positions; of the rest: O(N K C).

        Raises:
            UserError: if a row number is taken, or there are fewer than 2 tokens.
        """
        mixture, model_scores, gate = [], [], self.gate
        for log_probs, found, targets in read_beside(model, tokens, self.memories, learn_as, stride):
            inputs = gate_inputs(log_probs, found, gate.min_match_length)
            if rate > 0:
                scores, gate = gate.learn(inputs, targets, rate)
            else:
                scores = gate.score(inputs, targets)
            mixture.append(scores)
            model_scores.append(log_probs[np.arange(len(targets)), targets].astype(np.float64))
        return MixtureScores(np.concatenate(mixture), np.concatenate(model_scores), gate)


def check_memories(memories: Sequence[AnyTokenMemory]) -> None:
    """Refuse an empty list, and memories that do not speak of the same ids.

    Raises:
        UserError: saying which.
    """
    sizes = sorted({memory.vocab_size for memory in memories})
    if len(sizes) != 1:
        raise UserError(f"a mixture must have memories of one vocabulary; got sizes {sizes}.")


def read_beside(
    model: Decoder,
    tokens: TokenArray,
    memories: Sequence[AnyTokenMemory],
    learn_as: Sequence[int | None] = (),
    stride: int | None = None,
) -> Iterator[tuple[Float32[np.ndarray, "N C"], list[TokenPredictions], Int64[np.ndarray, " N"]]]:
    """Yield, stretch by stretch, the model's log-probabilities, what each memory says, and the ids that came.

    Args and errors are those of `Mixture.score`.
    """
    if learn_as and len(learn_as) != len(memories):
        raise UserError(f"learn_as must have an entry for each of {len(memories)} memories; got {len(learn_as)}.")
    rows = learn_as or [None] * len(memories)
    readers = [memory.reader(learn_as=row) for memory, row in zip(memories, rows, strict=True)]
    for reader in readers:
        # no model predicts the first token; the memories read it as all others.
        reader.read(tokens.ids[:1])
    for hidden, ids in run_model(model, tokens, stride):
        with torch.inference_mode():
            log_probs = torch.log_softmax(model.logits(hidden), dim=-1).cpu().numpy()
        vectors = hidden.float().cpu().numpy()
        yield log_probs, [reader.read(ids, vectors) for reader in readers], ids


def run_model(
    model: Decoder, tokens: TokenArray, stride: int | None = None
) -> Iterator[tuple[Float[Tensor, "N D"], Int64[np.ndarray, " N"]]]:
    """Yield, stretch by stretch, the vectors that a text's ids are predicted from, and the ids, all but the first.

    Windows slide as in `score_tokens`.
    """
    seq_len = model.config.seq_len
    device = next(model.parameters()).device
    stride = max(1, seq_len // 4) if stride is None else stride
    for inputs, targets, mask in sliding_windows(tokens, seq_len, stride, _BATCH_SIZE):
        with torch.inference_mode():
            hidden, _ = model.hidden(torch.from_numpy(inputs).to(device))
            hidden = hidden[torch.from_numpy(mask).to(device)]
        yield hidden, targets[mask]


def collect_vectors(
    model: Decoder, tokens: TokenArray, stride: int | None = None
) -> tuple[Int64[np.ndarray, " N"], Float16[np.ndarray, "N D"]]:
    """Return all ids but the first and the vectors they are predicted from, to build a `KNNBase` of. 2 N D bytes."""
    pieces = [(ids, hidden.cpu().numpy().astype(np.float16)) for hidden, ids in run_model(model, tokens, stride)]
    return np.concatenate([ids for ids, _ in pieces]), np.concatenate([vectors for _, vectors in pieces])


def calibrate(
    model: Decoder,
    memories: Sequence[AnyTokenMemory],
    tokens: TokenArray,
    *,
    kind: str = "both",
    min_match_length: int = 1,
    learn_as: Sequence[int | None] = (),
    stride: int | None = None,
) -> Gate:
    """Fit a gate on calibration text, which neither the model nor the memories may hold.

    Args:
        learn_as: for each memory, a row number that is free, if it is to learn the text as it reads, as it will when
            it is used; or None. What was learnt is forgotten again.

    Raises:
        UserError: as `Mixture.score` and `fit_gate`.
    """
    check_memories(memories)
    size = len(tokens) * (len(memories) + 1) * memories[0].vocab_size * 4
    step = -(-size // _MAX_CALIBRATION_BYTES) if kind != "linear" else 1
    parts: list[GateInputs] = []
    wanted: list[Int64[np.ndarray, " N"]] = []
    for log_probs, found, targets in read_beside(model, tokens, memories, learn_as, stride):
        inputs = gate_inputs(log_probs, found, min_match_length)
        if kind == "linear":
            # all that a linear gate needs is the target's probability: a vocabulary of one.
            theirs = np.take_along_axis(inputs.log_probs, targets[:, None, None], axis=2)
            parts.append(GateInputs(theirs, inputs.features, inputs.is_open))
            wanted.append(np.zeros_like(targets))
        else:
            parts.append(GateInputs(inputs.log_probs[::step], inputs.features[::step], inputs.is_open[::step]))
            wanted.append(targets[::step])
    for memory, row in zip(memories, learn_as, strict=False):
        if row is not None:
            memory.forget(row)
    joined = GateInputs(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))
    return fit_gate(joined, np.concatenate(wanted), kind, min_match_length)


def _columns(inputs: GateInputs) -> tuple[np.ndarray, ...]:
    return inputs.log_probs, inputs.features, inputs.is_open
