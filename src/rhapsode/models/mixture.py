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
from rhapsode.models.contracts import LanguageModel
from rhapsode.models.gate import Gate, GateInputs, fit_gate, gate_inputs
from rhapsode.models.scoring import window_bundles
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
    """Mixes token memories into a model's predictions. States are those of all memories, in order; never changed.

    The model itself is passed in where it is needed, so that one mixture serves any way of running it.

    A mixture may stand on another one, whose predictions are then what it takes for the model's. Where its own memories
    are closed it is exactly the one beneath.
    """

    def __init__(self, memories: Sequence[AnyTokenMemory], gate: Gate, beneath: "Mixture | None" = None) -> None:
        """Store the parts.

        Raises:
            UserError: if the gate is for another number of memories, or their vocabularies differ.
        """
        self.memories: tuple[AnyTokenMemory, ...] = (*(beneath.memories if beneath else ()), *memories)
        check_memories(self.memories)
        if gate.num_memories != len(memories):
            raise UserError(
                f"the gate must be fitted for these {len(memories)} memories; got one for {gate.num_memories}. "
                "Fit it again."
            )
        self.gate = gate
        self.beneath = beneath
        self._first = len(self.memories) - len(memories)

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
        """Return the log-probabilities of the next id, or `logits` itself if every gate is closed for every memory."""
        if self.beneath is not None:
            logits = self.beneath.mix(logits, states[: self._first])
        found = []
        for memory, state in zip(self.memories[self._first :], states[self._first :], strict=True):
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

    def inputs(self, log_probs: Float32[np.ndarray, "N C"], found: Sequence[TokenPredictions]) -> GateInputs:
        """Return what this mixture's own gate sees of a stretch, given what the model and all memories say of it."""
        under = mix_beneath(self.beneath, log_probs, found[: self._first])
        return gate_inputs(under, found[self._first :], self.gate.min_match_length)

    def score(
        self,
        model: LanguageModel,
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
            inputs = self.inputs(log_probs, found)
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


def mix_beneath(
    beneath: Mixture | None, log_probs: Float32[np.ndarray, "N C"], found: Sequence[TokenPredictions]
) -> Float32[np.ndarray, "N C"]:
    """Return what a mixture that stands on `beneath` takes for the model's log-probabilities. Cost O(N K C)."""
    if beneath is None:
        return log_probs
    mixed: np.ndarray = beneath.gate.mix(beneath.inputs(log_probs, found)).astype(np.float32)
    return mixed


def read_beside(
    model: LanguageModel,
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
    model: LanguageModel, tokens: TokenArray, stride: int | None = None
) -> Iterator[tuple[Float[Tensor, "N D"], Int64[np.ndarray, " N"]]]:
    """Yield, stretch by stretch, the vectors that a text's ids are predicted from, and the ids, all but the first.

    Windows slide as in `score_tokens`.
    """
    seq_len = model.config.seq_len
    device = next(model.parameters()).device
    stride = max(1, seq_len // 4) if stride is None else stride
    for index, (inputs, targets, mask) in enumerate(sliding_windows(tokens, seq_len, stride, _BATCH_SIZE)):
        with torch.inference_mode():
            ids = torch.from_numpy(inputs).to(device)
            bundles = window_bundles(model, tokens, stride, index, ids, torch.from_numpy(targets).to(device))
            hidden, _ = model.hidden(ids, bundles=bundles)
            hidden = hidden[torch.from_numpy(mask).to(device)]
        yield hidden, targets[mask]


def collect_vectors(
    model: LanguageModel, tokens: TokenArray, stride: int | None = None
) -> tuple[Int64[np.ndarray, " N"], Float16[np.ndarray, "N D"]]:
    """Return all ids but the first and the vectors they are predicted from, to build a `KNNBase` of. 2 N D bytes."""
    pieces = [(ids, hidden.cpu().numpy().astype(np.float16)) for hidden, ids in run_model(model, tokens, stride)]
    return np.concatenate([ids for ids, _ in pieces]), np.concatenate([vectors for _, vectors in pieces])


def calibrate(
    model: LanguageModel,
    memories: Sequence[AnyTokenMemory],
    tokens: TokenArray,
    *,
    kind: str = "both",
    min_match_length: int = 1,
    learn_as: Sequence[int | None] = (),
    stride: int | None = None,
    beneath: Mixture | None = None,
    max_bytes: int = _MAX_CALIBRATION_BYTES,
) -> Gate:
    """Fit a gate on calibration text, which neither the model nor the memories may hold.

    Args:
        learn_as: for each memory (of `beneath` first), a row number that is free, if it is to learn the text as it
            reads, as it will when it is used; or None. What was learnt is forgotten again.
        beneath: the mixture that the memories will stand on.
        max_bytes: of log-probabilities that a geometric gate is fitted on; more text is thinned out evenly.

    Raises:
        UserError: as `Mixture.score` and `fit_gate`.
    """
    all_memories = [*(beneath.memories if beneath else ()), *memories]
    check_memories(all_memories)
    first = len(all_memories) - len(memories)
    size = len(tokens) * (len(memories) + 1) * memories[0].vocab_size * 4
    step = -(-size // max_bytes) if kind != "linear" else 1
    parts: list[GateInputs] = []
    wanted: list[Int64[np.ndarray, " N"]] = []
    for log_probs, found, targets in read_beside(model, tokens, all_memories, learn_as, stride):
        inputs = gate_inputs(mix_beneath(beneath, log_probs, found[:first]), found[first:], min_match_length)
        if kind == "linear":
            # all that a linear gate needs is the target's probability: a vocabulary of one.
            theirs = np.take_along_axis(inputs.log_probs, targets[:, None, None], axis=2)
            parts.append(GateInputs(theirs, inputs.features, inputs.is_open))
            wanted.append(np.zeros_like(targets))
        else:
            parts.append(GateInputs(inputs.log_probs[::step], inputs.features[::step], inputs.is_open[::step]))
            wanted.append(targets[::step])
    for memory, row in zip(all_memories, learn_as, strict=False):
        if row is not None:
            memory.forget(row)
    joined = GateInputs(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))
    return fit_gate(joined, np.concatenate(wanted), kind, min_match_length)


def _columns(inputs: GateInputs) -> tuple[np.ndarray, ...]:
    return inputs.log_probs, inputs.features, inputs.is_open
