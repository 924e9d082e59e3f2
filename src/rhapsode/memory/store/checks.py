"""What a store refuses, before anything is written."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

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
    size = len(check_unicode(text, what).encode("utf-8"))
    if size > limit:
        raise UserError(
            f"{what} must be at most {limit:,} bytes long; got {size:,}. Split it, as teaching a file does."
        )
    return text


def check_unicode(text: str, what: str) -> str:
    """Return `text` if a database can be asked for it.

    Raises:
        UserError: if it holds half a character, as arguments in another encoding than the terminal's do.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} must be valid Unicode; got half of a surrogate pair at character {error.start}. "
            "Decode the text from bytes with its true encoding."
        ) from None
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
    vectors: np.ndarray, num_texts: int, width: int | None, what: str = "vectors"
) -> Float32[np.ndarray, "N M"]:
    """Return vectors of unit length (zeros stay zeros) as float32.

    Args:
        width: what the store's vectors have; None while it has none.

    Raises:
        UserError: if the values are no numbers, the shape is wrong, or a value is not finite.
    """
    if vectors.dtype.kind not in "fiu":
        raise UserError(f"{what} must be numbers; got {vectors.dtype}.")
    if vectors.ndim != 2 or len(vectors) != num_texts:
        raise UserError(f"{what} must have one row a text, ({num_texts}, M); got {vectors.shape}.")
    if vectors.shape[1] < 1 or (width is not None and vectors.shape[1] != width):
        raise UserError(f"{what} must be {width or 'at least 1'} wide; got {vectors.shape[1]}.")
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise UserError(f"{what} must be finite; got NaN or infinity in row {wrong[0]}.")
    exact = vectors.astype(np.float64)
    # squares of what is far from 1 overflow, or vanish: the largest number of each row is made 1 first.
    peaks = np.abs(exact).max(axis=1, keepdims=True)
    exact = np.divide(exact, peaks, out=np.zeros_like(exact), where=peaks > 0)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    unit: Float32[np.ndarray, "N M"] = np.divide(exact, norms, out=np.zeros_like(exact), where=norms > 0).astype("f4")
    return unit


def as_array(values: Any, what: str) -> np.ndarray:
    """Return what somebody else's code gave as an array.

    Raises:
        UserError: if rows differ in length, or it is nothing that numpy knows.
    """
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{what} must be rows of one length; got {type(values).__name__} of several.") from None


def encode_texts(encoder: Encoder, texts: Sequence[str]) -> Float32[np.ndarray, "N M"]:
    """Encode and check what came out.

    Raises:
        StateError: if the encoder gives another shape than it promised, or what are no finite numbers.
    """
    vectors = encoder.encode(texts)
    what = f"the encoder {encoder.fingerprint}'s vectors"
    try:
        return check_vectors(as_array(vectors, what), len(texts), encoder.width, what)
    except UserError as error:
        raise StateError(f"{error} Nothing was written.") from None
