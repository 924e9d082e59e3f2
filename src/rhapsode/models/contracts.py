"""The contract of a language model: what generation, scoring and the mixtures need of one."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class ModelSizes(Protocol):
    """What a model's settings say of the text that it reads."""

    @property
    def embed(self) -> str:
        """Name of how ids become what it computes with."""
        ...

    @property
    def streams(self) -> bool:
        """Whether what stands before the context reaches it, as bundles."""
        ...

    @property
    def is_smooth(self) -> bool:
        """Whether logits of positions read together differ from those read one by one in their last bits only."""
        ...

    @property
    def vocab_size(self) -> int | None:
        """C, ids of its tokenizer."""
        ...

    @property
    def seq_len(self) -> int:
        """Tokens of a scoring window."""
        ...

    @property
    def max_positions(self) -> int | None:
        """Positions that it can number, or None for no limit."""
        ...


@runtime_checkable
class ModelState(Protocol):
    """What a model carries between calls. Never changed in place."""

    @property
    def position(self) -> int:
        """Number of the next id."""
        ...

    @property
    def added(self) -> int:
        """Ids of the last call."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """Predicts the next id from the ids before it. Causal; any split into calls gives the outputs of one call."""

    compute_dtype: torch.dtype
    """Of what it computes between ids and logits."""

    @property
    def config(self) -> ModelSizes:
        """Its settings."""
        ...

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        state: Any = None,
        segments: Int[Tensor, "B T"] | None = None,
        bundles: Float[Tensor, "B *L M"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Return all that `logits` needs of each position, and the state to go on from, a `ModelState`.

        Raises:
            UserError: if bundles are given to a model that does not stream.
        """
        ...

    def rewind(self, state: Any, keep: int) -> Any:
        """Return the state as if the last call had been given only its first `keep` ids."""
        ...

    def logits(self, hidden: Float[Tensor, "*N D"]) -> Float[Tensor, "*N C"]:
        """Return float32 logits of the next id for vectors from `hidden`."""
        ...

    def loss(
        self,
        ids: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        segments: Int[Tensor, "B T"] | None = None,
        chunk_size: int = 0,
        bundles: Float[Tensor, "B *L M"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Return the negative log-probability of each target in nats, float32."""
        ...

    def num_parameters(self) -> int:
        """Return the number of trainable scalars."""
        ...

    def parameters(self) -> Any:
        """Return the trainable tensors."""
        ...
