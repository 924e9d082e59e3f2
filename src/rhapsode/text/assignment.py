"""Which document belongs to which part: the rules of splitting, without any reading."""

import hashlib
from typing import Literal

import numpy as np
from jaxtyping import Int8, Int64, UInt8

Part = Literal["train", "validation", "calibration"]
PARTS: tuple[Part, ...] = ("train", "validation", "calibration")
TRAIN, VALIDATION, CALIBRATION = range(3)
NO_PART = -1


def assign_by_hash(
    digests: UInt8[np.ndarray, "N 16"],
    sizes: Int64[np.ndarray, " N"],
    fractions: tuple[float, float],
    seed: int,
) -> Int8[np.ndarray, " N"]:
    """Assign different documents to parts, as a function of their contents and the seed only.

    The documents are ordered by a hash of seed and content and laid end to end; a document belongs to the part in
    which its middle falls: validation first, then calibration, then train. A part that gets nothing, which happens
    with few documents, takes one from the part that has most: the smallest, or the largest if it is train that lacks.

    Args:
        digests: content hashes, all different.
        sizes: bytes of each document, positive.
        fractions: of all bytes, for validation (0 for none) and calibration.
        seed: of the order.

    Returns:
        0 (train), 1 (validation) or 2 (calibration) for each document. Every wanted part has at least one if there
        are at least as many documents as wanted parts.

    Cost: O(N log N).
    """
    salt = f"{seed}:".encode()
    keys = [hashlib.sha256(salt + digest.tobytes()).digest() for digest in digests]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    laid = sizes[order]
    middles = (np.cumsum(laid) - laid / 2) / laid.sum()
    validation, calibration = fractions
    parts = np.full(len(order), TRAIN, dtype=np.int8)
    parts[order[middles < validation + calibration]] = CALIBRATION
    parts[order[middles < validation]] = VALIDATION
    for part, fraction in ((TRAIN, 1.0), (VALIDATION, validation), (CALIBRATION, calibration)):
        if fraction > 0 and not (parts == part).any():
            donors = order[parts[order] == np.bincount(parts, minlength=3).argmax()]
            pick = np.argmax if part == TRAIN else np.argmin
            parts[donors[pick(sizes[donors])]] = part
    return parts


def position_bounds(num_chars: int, fractions: tuple[float, float]) -> dict[Part, tuple[int, int]]:
    """Return where the parts begin and end in one document: calibration, then train, then validation.

    Validation begins at `int(num_chars * (1 - val_split))`, as in nanoGPT (Karpathy, 2022), so that figures on Tiny
    Shakespeare compare. Calibration is the beginning: the text just before the validation is the most like it, and
    keeping that from training costs far more than its 2 % (docs/results.md).

    Args:
        num_chars: at least 3, so that no part is empty.
        fractions: for validation (0 for none) and calibration.
    """
    validation, calibration = fractions
    val_start = min(max(int(num_chars * (1 - validation)), 2), num_chars - 1) if validation > 0 else num_chars
    cal_stop = min(max(int(num_chars * calibration), 1), val_start - 1)
    return {
        "train": (cal_stop, val_start),
        "validation": (val_start, num_chars),
        "calibration": (0, cal_stop),
    }
