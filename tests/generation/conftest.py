"""Small models for the tests of generation: random ones, and one that speaks a given text."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import Decoder, build_decoder
from rhapsode.text.bytes_tokenizer import BytesTokenizer

SMALL = {"vocab_size": 259, "width": 32, "num_layers": 2, "num_heads": 4, "seq_len": 16}


@pytest.fixture
def tokenizer() -> BytesTokenizer:
    return BytesTokenizer()


@pytest.fixture
def make_model() -> Callable[..., Decoder]:
    """Build a small decoder in which no parameter is zero."""

    def build(seed: int = 0, **settings: Any) -> Decoder:
        values = {**SMALL, "hashed_ngrams": {"num_buckets": 64}, **settings}
        model = build_decoder(ModelConfig.model_validate(values), seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.5, generator=generator)
        return model

    return build


@pytest.fixture
def make_speaker() -> Callable[[list[int]], Decoder]:
    """Build a decoder that always follows an id of `chain` by the next one; ids must differ.

    Its layers are the identity, its embedding is one-hot, and row `b` of its head reads the coordinate of `a` where
    `b` follows `a`.
    """

    def build(chain: list[int]) -> Decoder:
        assert len(set(chain)) == len(chain)
        settings = {**SMALL, "embed": "table", "width": 260, "num_heads": 1, "num_layers": 1, "seq_len": 64}
        model = build_decoder(ModelConfig.model_validate(settings), 0)
        with torch.no_grad():
            model.embedder.table.weight.copy_(torch.eye(259, 260))
            for first, second in pairwise(chain):
                model.head.linear.weight[second, first] = 1.0
        return model

    return build
