"""What a store refuses, before anything is written."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from rhapsode.errors import StateError, UserError
from rhapsode.memory.config import StoreConfig
from rhapsode.memory.contracts import Encoder, Item

MODES = ("hybrid", "text", "vector")


def check_string(text: str, what: str, limit: int) -> str:
    """Return `text` if it can be stored and found again byte for byte.

    Raises:
        UserError: if it is empty, holds a NUL or half a character, or is longer than `limit` bytes.
    """
    if not text.strip():
        raise UserError(f"{what} must hold more than white space; got {text[:20]!r}.")
    if (at := text.find("\0")) >= 0:
        raise UserError(f"{what} must not hold the character NUL; got one at character {at}. Remove it.")
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} must be valid Unicode; got half of a surrogate pair at character {error.start}. "
            "Decode the text from bytes with its true encoding."
        ) from None
    if size > limit:
        raise UserError(
            f"{what} must be at most {limit:,} bytes long; got {size:,}. Split it, as teaching a file does."
        )
    return text


def check_item(item: Item, config: StoreConfig, number: int | None = None) -> None:
    """Raise UserError, as `check_string` does, for the first part of an item that cannot be stored.

    Args:
        number: of the item among several, from 0, for the message.
    """
    limit = config.max_text_bytes
    prefix = "" if number is None else f"items[{number}]."
    check_string(item.text, f"{prefix}text", limit)
    check_string(item.space, f"{prefix}space", limit)
    for name, value in (("key", item.key), ("source", item.source)):
        if value is not None:
            check_string(value, prefix + name, limit)
    for name, mapping in (("metadata", item.metadata), ("provenance", item.provenance)):
        check_string(encode_json(mapping, prefix + name), prefix + name, limit)


def encode_json(value: Any, what: str) -> str:
    """Return one canonical JSON text a value, so that equal values have equal texts.

    Raises:
        UserError: if it is not JSON, such as NaN or a date, or a mapping has names that are no strings.
    """
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise UserError(f"{what} must have strings as names; got {name!r}.")
        value = dict(value)
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} must be JSON; got: {error}.") from None
    return text


def check_k(k: int) -> None:
    """Raise UserError unless at least one row is asked for."""
    if k < 1:
        raise UserError(f"k must be at least 1; got {k}.")


def check_vectors(
    vectors: Float[np.ndarray, "N M"], num_texts: int, width: int | None, what: str = "vectors"
) -> Float32[np.ndarray, "N M"]:
    """Return vectors of unit length (zeros stay zeros) as float32.

    Args:
        width: what the store's vectors have; None while it has none.

    Raises:
        UserError: if the shape is wrong or a value is not finite.
    """
    if vectors.ndim != 2 or len(vectors) != num_texts:
        raise UserError(f"{what} must have one row a text, ({num_texts}, M); got {vectors.shape}.")
    if vectors.shape[1] < 1 or (width is not None and vectors.shape[1] != width):
        raise UserError(f"{what} must be {width or 'at least 1'} wide; got {vectors.shape[1]}.")
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise UserError(f"{what} must be finite; got NaN or infinity in row {wrong[0]}.")
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    unit: Float32[np.ndarray, "N M"] = np.divide(exact, norms, out=np.zeros_like(exact), where=norms > 0).astype("f4")
    return unit


def encode_texts(encoder: Encoder, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
    """Encode and check what came out.

    Raises:
        StateError: if the encoder gives another shape than it promised, or values that are not finite.
    """
    vectors = encoder.encode(texts)
    try:
        return check_vectors(
            np.asarray(vectors), len(texts), encoder.width, f"the encoder {encoder.fingerprint}'s vectors"
        )
    except UserError as error:
        raise StateError(f"{error} Nothing was written.") from None
