"""A function as an encoder."""

from pathlib import Path

import numpy as np
import pytest

from rhapsode.errors import UserError
from rhapsode.memory.encoders import load_encoder
from rhapsode.memory.encoders.callable import CallableEncoder


def lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 2.0, 0.0] for text in texts]


def test_rows_are_brought_to_unit_length() -> None:
    encoder = CallableEncoder(lengths, "lengths-1")
    rows = encoder.encode(["abc", ""])
    np.testing.assert_allclose(rows, [[3 / 13**0.5, 2 / 13**0.5, 0], [0, 1, 0]], rtol=1e-6)
    assert rows.dtype == np.float32
    assert encoder.encode([]).shape == (0, 3)


def test_the_name_is_the_fingerprint() -> None:
    assert CallableEncoder(lengths, "a").fingerprint == CallableEncoder(lengths, "a").fingerprint
    assert CallableEncoder(lengths, "a").fingerprint != CallableEncoder(lengths, "b").fingerprint


def test_large_numbers_are_no_zeros() -> None:
    encoder = CallableEncoder(lambda texts: [[3e200, 4e200] for _ in texts], "large")
    np.testing.assert_allclose(encoder.encode(["a"]), [[0.6, 0.8]], rtol=1e-6)


def test_rows_of_zeros_stay_zeros() -> None:
    assert (CallableEncoder(lambda texts: np.zeros((len(texts), 4)), "zeros").encode(["a"]) == 0).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: np.zeros(3), r"must return an array of shape \(1, M\); got \(3,\)"),
        (lambda texts: np.zeros((2, 3)), r"must return an array of shape \(1, M\); got \(2, 3\)"),
        (lambda texts: np.zeros((1, 0)), r"must return an array of shape \(1, M\); got \(1, 0\)"),
        (lambda texts: np.full((len(texts), 3), np.nan), "must return finite numbers; got NaN"),
        (lambda texts: ["a b c"], "must return numbers; got <U5"),
        (lambda texts: [[1.0], [1.0, 2.0]][: len(texts) + 1], "must return rows of one length"),
        (lambda texts: [[None]], "must return numbers; got object"),
        (lambda texts: np.full((len(texts), 3), np.inf), "must return finite numbers; got NaN"),
    ],
)
def test_a_function_that_gives_no_vectors_is_refused(function: object, message: str) -> None:
    with pytest.raises(UserError, match=f"the encoder 'mine' {message}"):
        CallableEncoder(function, "mine")  # type: ignore[arg-type]


def test_a_width_that_changes_is_refused() -> None:
    encoder = CallableEncoder(lambda texts: np.ones((len(texts), len(texts))), "growing")
    with pytest.raises(UserError, match=r"must return an array of shape \(2, 1\); got \(2, 2\)"):
        encoder.encode(["a", "b"])


def test_it_needs_a_name() -> None:
    with pytest.raises(UserError, match="name must not be empty"):
        CallableEncoder(lengths, " ")


def test_a_folder_cannot_bring_code_back(tmp_path: Path) -> None:
    CallableEncoder(lengths, "lengths-1").save(tmp_path)
    with pytest.raises(UserError, match="must be given as a function; it is the callable 'lengths-1'"):
        load_encoder(tmp_path)
