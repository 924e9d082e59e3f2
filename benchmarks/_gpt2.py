"""The peer of two benchmarks: GPT-2 from Hugging Face parts, with random weights. Nothing is downloaded."""

import os
from typing import Any

# read when transformers is imported: a benchmark must not depend on what a hub answers.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel


def build_gpt2(vocab_size: int, num_layers: int, num_heads: int, width: int, seq_len: int) -> GPT2LMHeadModel:
    """Return GPT-2 (Radford et al. 2019) without dropout, as its library builds it."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=seq_len,
        n_embd=width,
        n_layer=num_layers,
        n_head=num_heads,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        # a cache of keys is for generation; it would only cost time here.
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config).train()


def build_adamw(model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only, in the fused form, PyTorch's fastest on a CPU."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
