"""How far to trust each memory beside the model: a small softmax or linear gate, fitted on calibration text.

With p_0 the model, p_1 ... p_K the memories, x features of one position and s_k = u_k . x,

    linear      p(w) = sum over k of softmax(s)_k p_k(w)
    geometric   p(w) = exp(sum over k of s_k log p_k(w)) / Z
    both        the mean of the two, each with weights of its own

A memory whose match is shorter than `min_match_length` is closed: it has no part in the sum. Where all are closed, p is
the model's own. Features are, of the model, entropy and highest log-probability; of each memory these two, its match
length (one of sixteen) and the logarithm of its count; and a constant.

Linear interpolation: Jelinek and Mercer 1980; weights that depend on the match: Khandelwal et al. 2020 (arXiv
1911.00172) have one for all. Geometric mixing with weights learnt online: Mattern 2012, "Mixing strategies in data
compression" (arXiv 1112.3264).

Shape letters: N positions, K memories, C vocabulary, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Integer
from torch import Tensor

from rhapsode.errors import StateError, UserError, unknown_name
from rhapsode.memory.token_contracts import MAX_MATCH_LENGTH, TokenPredictions
from rhapsode.runfolder import read_json, write_json

FORMS = {"linear": ("linear",), "geometric": ("geometric",), "both": ("linear", "geometric")}
KINDS = tuple(FORMS)
RATES = {"linear": 0.005, "geometric": 0.0001}
"""Of learning online, measured on text of a few hundred thousand characters."""
FORMAT_VERSION = 1
_FEATURES_A_MEMORY = MAX_MATCH_LENGTH + 4
# features are brought to the order of one: a match of a thousand counts 7 in logarithms, an entropy 1 to 3 nats.
_COUNT_SCALE = 0.25
# of the squared weights of features that are brought to a deviation of one, in nats: calibration text is short.
_PENALTY = 1e-3
# a match length that calibration text hardly has is not blown up more than this.
_MIN_DEVIATION = 0.05


def num_features(num_memories: int) -> int:
    """Return F."""
    return 3 + _FEATURES_A_MEMORY * num_memories


@dataclass(frozen=True)
class GateInputs:
    """What a gate sees of a stretch of text: the log-probabilities of model and memories, and the features."""

    log_probs: Float32[np.ndarray, "N K_plus_1 C"]
    features: Float64[np.ndarray, "N F"]
    is_open: Bool[np.ndarray, "N K_plus_1"]
    """The first column, the model's, is always true."""


def gate_inputs(
    model: Float32[np.ndarray, "N C"], memories: Sequence[TokenPredictions], min_match_length: int
) -> GateInputs:
    """Work out features. Cost O(N K C)."""
    columns = [np.ones((len(model), 1)), *_shape_features(model)]
    is_open = [np.ones(len(model), dtype=np.bool_)]
    for found in memories:
        lengths = np.minimum(found.match_lengths, MAX_MATCH_LENGTH)
        columns += [*_shape_features(found.log_probabilities), np.eye(MAX_MATCH_LENGTH + 1)[lengths]]
        columns += [_COUNT_SCALE * np.log1p(found.counts.astype(np.float64))[:, None]]
        is_open.append(found.match_lengths >= min_match_length)
    log_probs = np.stack([model, *(found.log_probabilities for found in memories)], axis=1)
    return GateInputs(log_probs, np.concatenate(columns, axis=1), np.stack(is_open, axis=1))


def _shape_features(log_probs: Float32[np.ndarray, "N C"]) -> list[Float64[np.ndarray, "N 1"]]:
    entropy = -np.einsum("nc,nc->n", np.exp(log_probs), log_probs)
    return [entropy.astype(np.float64)[:, None], log_probs.max(axis=1).astype(np.float64)[:, None]]


class Gate:
    """Weights of K memories beside a model. Immutable; `learn` returns another."""

    def __init__(
        self, kind: str, weights: tuple[Float64[np.ndarray, "K_plus_1 F"], ...], min_match_length: int = 1
    ) -> None:
        """Store the weights u, one array for each form of the kind; `fit_gate` estimates them.

        Raises:
            UserError: if the kind is unknown, a shape is wrong, a weight is not finite, or the length is below 0.
        """
        _check_kind(kind)
        if len(weights) != len(FORMS[kind]):
            raise UserError(f"gate.weights must hold {len(FORMS[kind])} arrays for {kind}; got {len(weights)}.")
        num_memories = len(weights[0]) - 1
        for part in weights:
            if num_memories < 1 or part.shape != (num_memories + 1, num_features(num_memories)):
                raise UserError(f"gate.weights must be K + 1 rows of 3 + {_FEATURES_A_MEMORY} K; got {part.shape}.")
            if not bool(np.isfinite(part).all()):
                raise UserError("gate.weights must be finite; got others. Fit the gate again.")
        if min_match_length < 0:
            raise UserError(f"gate.min_match_length must be at least 0; got {min_match_length}.")
        self.kind = kind
        self.weights = weights
        self.min_match_length = min_match_length

    @property
    def num_memories(self) -> int:
        """K."""
        return len(self.weights[0]) - 1

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(part.nbytes for part in self.weights)

    def mix(self, inputs: GateInputs) -> Float64[np.ndarray, "N C"]:
        """Return the log-probabilities of the mixture. Cost O(N K C)."""
        forms = zip(FORMS[self.kind], self.weights, strict=True)
        return _mean([_MIX[form](_shares(form, weights, inputs), inputs.log_probs) for form, weights in forms])

    def score(self, inputs: GateInputs, targets: Integer[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        """Return the log-probability of each target under the mixture."""
        theirs = np.take_along_axis(inputs.log_probs, targets[:, None, None], axis=2)
        parts = []
        for form, weights in zip(FORMS[self.kind], self.weights, strict=True):
            shares = _shares(form, weights, inputs)
            if form == "linear":
                # a mean of probabilities can be taken of the target's alone.
                parts.append(_mix_linear(shares, theirs)[:, 0])
            else:
                parts.append(
                    np.take_along_axis(_mix_geometric(shares, inputs.log_probs), targets[:, None], axis=1)[:, 0]
                )
        return _mean(parts)

    def learn(
        self, inputs: GateInputs, targets: Integer[np.ndarray, " N"], rate: float = 1.0
    ) -> tuple[Float64[np.ndarray, " N"], "Gate"]:
        """Score each target, then take a step up the gradient of its log-probability, target after target.

        Each form climbs by itself. At one position the slope of s_k is, for `linear`, what share of the target's
        probability is p_k's less what share is given to it; for `geometric`, log p_k of the target less its mean
        under the mixture.

        Args:
            rate: multiplies `RATES`; 0 learns nothing.

        Returns:
            what `score` says of each target with the weights before it, and the gate after the last. Cost O(N K C).
        """
        scores, learnt = [], []
        for form, weights in zip(FORMS[self.kind], self.weights, strict=True):
            weights, own = weights.copy(), np.empty(len(targets))
            for i, target in enumerate(targets.tolist()):
                one = GateInputs(inputs.log_probs[i : i + 1], inputs.features[i : i + 1], inputs.is_open[i : i + 1])
                own[i], slope = _SLOPE[form](_shares(form, weights, one)[0], one, target)
                weights += rate * RATES[form] * slope[:, None] * one.features
            scores.append(own)
            learnt.append(weights)
        return _mean(scores), Gate(self.kind, tuple(learnt), self.min_match_length)

    def payload(self) -> dict[str, Any]:
        """Return the gate, ready for JSON."""
        head = {"format_version": FORMAT_VERSION, "kind": self.kind, "min_match_length": self.min_match_length}
        return {**head, "weights": [part.tolist() for part in self.weights]}

    @classmethod
    def from_payload(cls, stored: Mapping[str, Any], where: Path) -> "Gate":
        """Build what `payload` returned.

        Args:
            where: the file it comes from, for messages.

        Raises:
            StateError: if it is damaged, or of a newer version.
        """
        version = stored.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise StateError(
                f"{where} has format version {version!r}, and this rhapsode reads up to {FORMAT_VERSION}. "
                "Install a newer rhapsode."
            )
        try:
            weights = tuple(np.array(part, dtype=np.float64) for part in stored["weights"])
            return cls(stored["kind"], weights, int(stored["min_match_length"]))
        except (KeyError, TypeError, ValueError, IndexError, UserError):
            raise StateError(f"{where} must hold a gate, but it is damaged. Fit it again.") from None

    def save(self, path: Path) -> None:
        """Write the gate as JSON. Raises StateError if it cannot."""
        write_json(path, self.payload())

    @classmethod
    def load(cls, path: Path) -> "Gate":
        """Read what `save` wrote. Raises StateError as `from_payload`, and if the file is missing."""
        return cls.from_payload(read_json(path), path)


def _check_kind(kind: str) -> None:
    if kind not in FORMS:
        raise unknown_name("gate.kind", kind, KINDS)


def _mean(log_probs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the log of the mean of the probabilities."""
    if len(log_probs) == 1:
        return log_probs[0]
    mean: np.ndarray = np.logaddexp.reduce(np.stack(log_probs), axis=0) - np.log(len(log_probs))
    return mean


def _shares(form: str, weights: np.ndarray, inputs: GateInputs) -> Float64[np.ndarray, "N K_plus_1"]:
    """Return what multiplies each p_k (linear: they sum to 1) or each log p_k (geometric); 0 where closed."""
    scores: np.ndarray = inputs.features @ weights.T
    if form == "linear":
        scores = np.where(inputs.is_open, scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        return scores
    scores = np.where(inputs.is_open, scores, 0.0)
    scores[~inputs.is_open[:, 1:].any(axis=1), 0] = 1.0
    return scores


def _mix_linear(shares: np.ndarray, log_probs: np.ndarray) -> Float64[np.ndarray, "N C"]:
    with np.errstate(divide="ignore"):
        # a share of 0 becomes minus infinity, which adds nothing.
        mixed: np.ndarray = np.logaddexp.reduce(np.log(shares)[:, :, None] + log_probs, axis=1)
    return mixed


def _mix_geometric(shares: np.ndarray, log_probs: np.ndarray) -> Float64[np.ndarray, "N C"]:
    mixed: np.ndarray = np.einsum("nk,nkc->nc", shares, log_probs)
    return mixed - np.logaddexp.reduce(mixed, axis=1, keepdims=True)


def _slope_linear(shares: np.ndarray, one: GateInputs, target: int) -> tuple[float, Float64[np.ndarray, " K_plus_1"]]:
    mine = shares * np.exp(one.log_probs[0, :, target].astype(np.float64))
    total = mine.sum()
    return float(np.log(total)), mine / total - shares


def _slope_geometric(
    shares: np.ndarray, one: GateInputs, target: int
) -> tuple[float, Float64[np.ndarray, " K_plus_1"]]:
    log_probs = one.log_probs[0]
    mixed = shares @ log_probs
    mixed -= np.logaddexp.reduce(mixed)
    slope = log_probs[:, target] - log_probs @ np.exp(mixed)
    # with every memory closed the model's share is 1 and not learnt.
    is_learnt = one.is_open[0] & one.is_open[0, 1:].any()
    return float(mixed[target]), np.where(is_learnt, slope, 0.0)


_MIX = {"linear": _mix_linear, "geometric": _mix_geometric}
_SLOPE = {"linear": _slope_linear, "geometric": _slope_geometric}


def fit_gate(
    inputs: GateInputs,
    targets: Integer[np.ndarray, " N"],
    kind: str = "both",
    min_match_length: int = 1,
    max_steps: int = 100,
) -> Gate:
    """Maximise the likelihood of calibration text, which neither model nor memories may have learnt.

    Newton's method with limited memory (Liu and Nocedal 1989) from equal shares; deterministic.

    Args:
        targets: the id that came at each position.

    Raises:
        UserError: if the kind is unknown or there are no positions.
    """
    _check_kind(kind)
    if len(targets) == 0:
        raise UserError("calibration text must hold at least one token; got none.")
    weights = tuple(_fit_form(form, inputs, targets, max_steps) for form in FORMS[kind])
    return Gate(kind, weights, min_match_length)


def _fit_form(
    form: str, inputs: GateInputs, targets: Integer[np.ndarray, " N"], max_steps: int
) -> Float64[np.ndarray, "K_plus_1 F"]:
    num_experts = inputs.log_probs.shape[1]
    weights = torch.zeros(num_experts, inputs.features.shape[1], dtype=torch.float64)
    if form == "geometric":
        weights[:, 0] = 1 / num_experts
    weights.requires_grad_()
    # the first feature is the constant: it takes up what centring the others leaves over.
    centre, deviation = inputs.features.mean(axis=0), np.maximum(inputs.features.std(axis=0), _MIN_DEVIATION)
    centre[0], deviation[0] = 0.0, 1.0
    features, is_open = torch.from_numpy((inputs.features - centre) / deviation), torch.from_numpy(inputs.is_open)
    log_probs, wanted = torch.from_numpy(inputs.log_probs), torch.from_numpy(targets.astype(np.int64))
    loss = _LOSS[form]
    if form == "linear":
        log_probs = log_probs.gather(2, wanted[:, None, None].expand(-1, num_experts, 1))[:, :, 0]
    optimizer = torch.optim.LBFGS([weights], max_iter=max_steps, history_size=20, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = loss(features @ weights.T, is_open, log_probs, wanted) + _PENALTY * weights[:, 1:].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    fitted: np.ndarray = weights.detach().numpy() / deviation
    fitted[:, 0] -= fitted @ centre
    return fitted


def _linear_loss(
    scores: Float[Tensor, "N K_plus_1"],
    is_open: Tensor,
    log_probs: Float[Tensor, "N K_plus_1"],
    targets: Tensor,
) -> Float[Tensor, ""]:
    shares = torch.log_softmax(scores.masked_fill(~is_open, -torch.inf), dim=1)
    return -torch.logsumexp(shares + log_probs, dim=1).mean()


def _geometric_loss(
    scores: Float[Tensor, "N K_plus_1"],
    is_open: Tensor,
    log_probs: Float[Tensor, "N K_plus_1 C"],
    targets: Tensor,
) -> Float[Tensor, ""]:
    shares = scores.masked_fill(~is_open, 0.0)
    # where all memories are closed the weights have no part in what is predicted, nor in what is fitted.
    learnt = is_open[:, 1:].any(dim=1)
    mixed = torch.einsum("nk,nkc->nc", shares[learnt].float(), log_probs[learnt])
    losses = torch.logsumexp(mixed, dim=1) - mixed.gather(1, targets[learnt][:, None])[:, 0]
    return losses.sum().double() / max(1, len(targets))


_LOSS = {"linear": _linear_loss, "geometric": _geometric_loss}
