"""What a key-value memory writes, reads, keeps and drops: every policy has a name and a stated default. Torch-free.

The names and defaults are those of the H-SOKV comparison (docs/systems/hsokv.md), so that each of its flows is a
setting of these. A policy is a pure function of arrays: nothing here holds state.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from rhapsode.config import Config

Write = Literal["all", "surprise"]
Read = Literal["top1", "mean", "attention"]
Similarity = Literal["cosine", "dot"]
Gate = Literal["none", "learned"]
Consolidate = Literal["off", "delete", "verify"]
Forget = Literal["off", "utility", "protected"]
Evict = Literal["oldest", "least_used", "lowest_utility"]

# a hundred reads count as full use, so that one read is 0.01.
FULL_USE = 100
UTILITY_WEIGHTS = {"confidence": 0.4, "usage": 0.2, "success": 0.3}
BOOST_WEIGHTS = {"confidence": 0.10, "usage": 0.05, "recency": 0.05}
# how far one outcome moves the confidence of an entry.
CONFIDENCE_STEP = 0.1


class KeyValueConfig(Config):
    """How a `KeyValueMemory` stores and searches."""

    similarity: Similarity = "cosine"
    """Compare keys by the cosine or the raw dot product."""
    context_boost: bool = False
    """Add small bonuses for confidence, usage and recency to every similarity."""
    keys: Literal["frozen", "reencodable"] = "frozen"
    """Keep keys as written, or keep each entry's text too, so that a changed encoder can make them anew."""
    max_entries: int | None = Field(default=None, ge=1)
    """Capacity; without it, memory is the limit."""
    evict: Evict = "oldest"
    """What makes room when the memory is full."""
    search: Literal["exact", "ann"] = "exact"
    """Compare with every key, or with those of the nearest FAISS cells."""
    ann_from: int = Field(default=2_000, ge=1)
    """Below this many entries an `ann` memory compares with every key."""
    ann_share: float = Field(default=0.125, gt=0, le=1)
    """Share of the FAISS cells that a search visits."""


class Policies(Config):
    """Every choice of a memory-augmented classifier, beside those of its memory."""

    memory: KeyValueConfig = KeyValueConfig()
    """How entries are stored and searched."""
    write: Write = "all"
    """Store every sample, or those whose loss is above `surprise_threshold`."""
    surprise_threshold: float = Field(default=0.3, ge=0)
    """Loss in nats above which `surprise` writes."""
    read: Read = "top1"
    """Take the nearest value, the plain mean of the nearest `top_k`, or their softmax-weighted mean."""
    top_k: int = Field(default=5, ge=1)
    """Values that `mean` and `attention` read."""
    temperature: float = Field(default=0.1, gt=0)
    """Of the softmax of `attention`."""
    gate: Gate = "none"
    """Mix the retrieved value with the encoder's state by a learnt sigmoid, or use it alone."""
    consolidate: Consolidate = "off"
    """Train entries into the model and remove them: unchecked (`delete`) or only once checked (`verify`)."""
    consolidate_every: int = Field(default=10, ge=1)
    """Iterations between two consolidations, and between two rounds of forgetting."""
    consolidate_above: float = Field(default=0.85, ge=0, le=1)
    """Confidence above which an entry is consolidated."""
    forget: Forget = "off"
    """Remove entries of low utility; `protected` never removes what was never tried."""
    forget_below: float = Field(default=0.10, ge=0)
    """Utility below which an entry is removed."""
    swarm: bool = False
    """Train by the population-based search instead of one run."""


def writes(policy: Write, losses: Float[np.ndarray, " B"], threshold: float) -> Bool[np.ndarray, " B"]:
    """Say which samples are stored, given the loss of each in nats."""
    return np.ones(len(losses), dtype=bool) if policy == "all" else losses > threshold


def read_weights(
    policy: Read, scores: Float[np.ndarray, "B k"], top_k: int, temperature: float
) -> Float[np.ndarray, "B k"]:
    """Return how much of each retrieved value is taken; a row sums to 1, or is 0 where nothing was found.

    Args:
        scores: best first, `-inf` where there is no entry.
    """
    found = np.isfinite(scores)
    found[:, 1 if policy == "top1" else top_k :] = False
    logits = scores / temperature if policy == "attention" else np.zeros_like(scores)
    logits = np.where(found, logits, -np.inf)
    best = logits.max(axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits - np.where(np.isfinite(best), best, 0))
    total = weights.sum(axis=1, keepdims=True)
    shares: np.ndarray = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return shares


def utility(
    confidence: Float[np.ndarray, " N"], uses: Int[np.ndarray, " N"], successes: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """0.4 confidence + 0.2 usage + 0.3 success rate. Usage is uses / 100, at most 1; an unknown success is 0."""
    usage = np.minimum(uses / FULL_USE, 1.0)
    success = successes / np.maximum(uses, 1)
    parts = {"confidence": confidence, "usage": usage, "success": success}
    total: Any = sum(weight * parts[name] for name, weight in UTILITY_WEIGHTS.items())
    return np.asarray(total, dtype=np.float64)


def forgettable(
    policy: Forget,
    utilities: Float[np.ndarray, " N"],
    uses: Int[np.ndarray, " N"],
    threshold: float,
) -> Bool[np.ndarray, " N"]:
    """Say which entries the policy removes."""
    if policy == "off":
        return np.zeros(len(utilities), dtype=bool)
    low = utilities < threshold
    return low & (uses > 0) if policy == "protected" else low


def context_boosts(
    confidence: Float[np.ndarray, " N"],
    uses: Int[np.ndarray, " N"],
    written: Int[np.ndarray, " N"],
    clock: int,
) -> Float[np.ndarray, " N"]:
    """Return what is added to every similarity: 0.10 confidence + 0.05 usage + 0.05 recency, each in [0, 1].

    The document names such boosts and calls them noise, but gives no formula; these are the usual ones.
    """
    usage = np.minimum(uses / FULL_USE, 1.0)
    recency = written / max(clock, 1)
    weights = BOOST_WEIGHTS
    boost = weights["confidence"] * confidence + weights["usage"] * usage + weights["recency"] * recency
    return np.asarray(boost, dtype=np.float32)
