"""A holographic embedding on disk: its store and what regenerates its keys.

FOLDER/embedding.safetensors       the store, float32 (L, D), and the seed of the keys
FOLDER/embedding.json              sizes, algebra and seed
FOLDER/holographic_store.npy       the store again, for other programs
FOLDER/holographic_store_keys.npy  the keys, float32 (C, D): an export only, since the seed regenerates them
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from rhapsode.errors import StateError, UserError
from rhapsode.nn.config import HolographicConfig
from rhapsode.nn.holographic import HolographicEmbedding
from rhapsode.runfolder import read_json, write_atomic, write_json

SETTINGS = "embedding.json"
TENSORS = "embedding.safetensors"
STORE = "holographic_store.npy"
KEYS = "holographic_store_keys.npy"
_NAMES = ("vocab_size", "dim", "num_bundles", "num_hashes", "algebra", "seed")


def save_embedding(folder: Path, embedding: HolographicEmbedding, *, export: bool = True) -> None:
    """Write an embedding into a folder that exists, the settings last.

    Args:
        export: write the store and the keys as .npy as well.

    Raises:
        StateError: if the disk is full or read-only.
    """
    store = embedding.store.weight.detach().float().cpu().contiguous()
    if export:
        write_atomic(folder / STORE, _npy(store.numpy()))
        write_atomic(folder / KEYS, _npy(embedding.keys().cpu().numpy()))
    seed = torch.tensor(embedding.algebra.seed)
    write_atomic(folder / TENSORS, save({"store": store, "key_seed": seed}))
    write_json(folder / SETTINGS, embedding_settings(embedding))


def embedding_settings(embedding: HolographicEmbedding) -> dict[str, Any]:
    """Return the sizes and the seed that a store is read with."""
    num_bundles, dim = embedding.store.weight.shape
    values = (
        embedding.vocab_size,
        dim,
        num_bundles,
        embedding.num_hashes,
        embedding.algebra.kind,
        embedding.algebra.seed,
    )
    return dict(zip(_NAMES, values, strict=True))


def load_embedding(folder: str | Path) -> HolographicEmbedding:
    """Read an embedding.

    Raises:
        UserError: if there is none.
        StateError: if it is damaged, or its settings name another seed or other sizes than its store was made with.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise UserError(f"an embedding must be in {folder}; it has no {SETTINGS}. Make one: rhapsode embed train.")
    settings = read_json(folder / SETTINGS)
    try:
        tensors = load((folder / TENSORS).read_bytes())
    except OSError as error:
        raise StateError(f"{folder / TENSORS} must be readable; got: {error.strerror}.") from None
    except SafetensorError as error:
        raise StateError(f"{folder / TENSORS} must be a safetensors file; got: {error}.") from None
    numbers = [settings.get(name) for name in _NAMES if name != "algebra"]
    if not all(type(number) is int for number in numbers) or set(tensors) != {"store", "key_seed"}:
        raise StateError(f"{folder} must hold a holographic embedding; its files hold something else.")
    if tensors["key_seed"].tolist() != settings["seed"]:
        raise StateError(
            f"{folder / SETTINGS} must name the seed that the store was made with; got {settings['seed']} and "
            f"{tensors['key_seed'].tolist()}. Restore it: other keys read the store as noise."
        )
    try:
        embedding = HolographicEmbedding(**{name: settings[name] for name in _NAMES})
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{folder / SETTINGS} must hold the settings of its store; got: {error}") from None
    if tensors["store"].shape != embedding.store.weight.shape:
        raise StateError(
            f"{folder / TENSORS} must have the sizes in {SETTINGS}; got {tuple(tensors['store'].shape)} and "
            f"{tuple(embedding.store.weight.shape)}."
        )
    embedding.store.weight.data.copy_(tensors["store"])
    return embedding


def start_from(embedding: HolographicEmbedding, config: HolographicConfig) -> None:
    """Fill the store of a new model from the saved one that `config.store` names.

    Raises:
        UserError: if its vocabulary, sizes, algebra or seed are not those of the model.
        StateError: as `load_embedding` does.
    """
    assert config.store is not None
    saved = load_embedding(config.store)
    was, wanted = embedding_settings(saved), embedding_settings(embedding)
    for name in _NAMES:
        if was[name] != wanted[name]:
            setting = {"vocab_size": "model.vocab_size", "dim": "model.width"}.get(name, f"model.holographic.{name}")
            raise UserError(
                f"{setting} must be that of the saved store; got {wanted[name]}, and {config.store} was made with "
                f"{was[name]}. Set it so, or leave model.holographic.store out."
            )
    embedding.store.weight.data.copy_(saved.store.weight.data)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
