"""Stored vectors: float16 in the database, unit float32 in use.

Shape letters: N ids asked for, P of them that have a vector, M width.
"""

import json
import sqlite3
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Float64, Int64

BATCH = 10_000


def encode_vector(vector: Float32[np.ndarray, " M"]) -> bytes:
    """Return what is stored for a vector."""
    return vector.astype("<f2").tobytes()


def read_vectors(
    connection: sqlite3.Connection, ids: Int64[np.ndarray, " N"], width: int
) -> tuple[Int64[np.ndarray, " P"], Float32[np.ndarray, "P M"]]:
    """Return the ids that have a vector other than zero, in order, and these at unit length."""
    found = connection.execute(
        "SELECT id, vector FROM vectors WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps(ids.tolist()),),
    ).fetchall()
    present = np.array([row_id for row_id, _ in found], dtype=np.int64)
    vectors = np.frombuffer(b"".join(data for _, data in found), dtype="<f2").astype(np.float32)
    vectors = vectors.reshape(len(found), width)
    norms = np.linalg.norm(vectors, axis=1)
    known = norms > 0
    return present[known], vectors[known] / norms[known, None]


def read_current_ids(connection: sqlite3.Connection, space: int) -> Int64[np.ndarray, " N"]:
    """Return the ids of the current rows of a space, in order."""
    found = connection.execute(
        "SELECT id FROM rows WHERE space = ? AND superseded_by IS NULL ORDER BY id", (space,)
    ).fetchall()
    return np.array(found, dtype=np.int64).reshape(-1)


def iterate_vectors(
    connection: sqlite3.Connection, ids: Int64[np.ndarray, " N"], width: int
) -> Iterator[tuple[Int64[np.ndarray, " P"], Float32[np.ndarray, "P M"]]]:
    """Yield what `read_vectors` returns, a batch of ids at a time."""
    for start in range(0, len(ids), BATCH):
        yield read_vectors(connection, ids[start : start + BATCH], width)


def compute_cosines(
    connection: sqlite3.Connection, ids: Int64[np.ndarray, " N"], vector: Float32[np.ndarray, " M"]
) -> tuple[Int64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    """Return the ids that have a vector, and the cosine of each with `vector`, which is not zero.

    Sums are in float64 and rounded to 7 digits, so that a cosine does not depend on the rows computed beside it.
    """
    present, vectors = read_vectors(connection, ids, len(vector))
    query = vector.astype(np.float64)
    return present, np.round(vectors.astype(np.float64) @ (query / np.linalg.norm(query)), 7)
