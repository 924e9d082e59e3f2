"""Nothing is made on a device of its own: every operation of a model sees tensors of one device.

Models are moved to PyTorch's `meta` device, which computes shapes only, and every operation is watched. So what would
fail on a GPU fails here without one.
"""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.training.config import load_recipe

# these move tensors between devices, or make one from a number.
MOVES = {"_to_copy", "copy_", "lift_fresh", "_pin_memory"}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((recipe, {}) for recipe in ("rhapsode", "gpt", "hsmn", "saguaro")),
    ("hsmn", {"hypervector_stream": {"timescales": [16.0]}}),
    ("hsmn", {"hypervector_stream": {"adapter": "broadcast", "tokens": "table"}}),
    ("hsmn", {"hypervector_stream": {"adapter": "learned", "algebra": "sign_flip"}}),
    *(("rhapsode", {"embed": name}) for name in ("table", "low_rank", "hash", "quotient_remainder")),
    ("saguaro", {"holographic": {"algebra": "sign_flip", "num_hashes": 2}}),
    *(("rhapsode", {"mix": name}) for name in ("sliding", "gla", "gla attention")),
    *(("rhapsode", {"predict": name}) for name in ("tied", "factored", "squared_amplitude")),
    ("rhapsode", {"latent_steps": 2}),
]


class OneDevice(TorchDispatchMode):
    """Refuse operations on tensors of several devices; single numbers may come from the CPU, as on a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.ndim > 0}
        if len(found) > 1 and function.overloadpacket.__name__ not in MOVES:
            raise AssertionError(f"{function} sees tensors of {sorted(found)}")
        return function(*args, **(kwargs or {}))


def built(recipe: str, settings: dict[str, Any]) -> Decoder:
    sizes: dict[str, Any] = {"vocab_size": 300, "width": 32, "num_layers": 2, "num_heads": 2, "seq_len": 32}
    if recipe == "hsmn":
        sizes["hypervector_stream"] = {"hd_dim": 640}
    if recipe == "saguaro":
        sizes["holographic"] = {"num_bundles": 20}
    if recipe in ("rhapsode", "hsmn"):
        sizes["hashed_ngrams"] = {"num_buckets": 64, "dim": 16}
    for name, value in settings.items():
        sizes[name] = {**sizes[name], **value} if isinstance(sizes.get(name), dict) else value
    return build_decoder(load_recipe(recipe, {"model": sizes}).model, 0)


@pytest.mark.parametrize(("recipe", "settings"), CASES, ids=str)
def test_training_and_steps_see_one_device(recipe: str, settings: dict[str, Any], monkeypatch: Any) -> None:
    model = built(recipe, settings).to("meta")
    streams = model.config.streams
    if streams:
        # it looks at the values of ids, of which there are none here.
        monkeypatch.setattr(model.embedder, "_check", lambda ids: None)
    ids = torch.zeros(2, 33, dtype=torch.int64, device="meta")
    segments = torch.zeros(2, 32, dtype=torch.int64, device="meta")
    with OneDevice():
        past = ids.new_zeros(2, model.embedder.past_tokens) if streams else None
        bundles = model.encode_past(past, ids[:, :-1], ids[:, 1:]) if streams else None
        loss = model.loss(ids[:, :-1], ids[:, 1:], segments, bundles=bundles).mean()
        loss.backward()
        _, state = model(ids[:, :7])
        logits, _ = model(ids[:, 7:9], state)
    assert logits.device.type == "meta"
    assert all(p.grad is None or p.grad.device.type == "meta" for p in model.parameters())


def test_a_tensor_left_behind_is_noticed() -> None:
    layer = nn.Linear(3, 3, device="meta")
    with OneDevice(), pytest.raises(AssertionError, match="sees tensors of"):
        layer(torch.ones(2, 3))
