"""What every field has whatever holds its units: the way in, the way out, and how units are drawn."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.nn.field.config import FieldConfig
from rhapsode.nn.field.search import UnitSearch
from rhapsode.ops.field.evaluate import FieldParts, Shape, Units

# a band or a temperature below this share of its start would overflow a slope in float32.
SMALLEST_LOG = float(torch.tensor(1e-3).log())


class FieldOutput(NamedTuple):
    """What a field says of a batch: outputs (B, V), active ids (B, K), and the parts they were made of."""

    outputs: Tensor
    ids: Tensor
    parts: FieldParts


class FieldHead(nn.Module, ABC):
    """f(x) = bias + decoder^T sum_i a_i(x) v_i(x), over the K active units (docs/field.md has the equations)."""

    log_temperature: nn.Parameter
    decoder: nn.Parameter | None
    bias: nn.Parameter

    def __init__(self, in_dim: int, out_dim: int, config: FieldConfig) -> None:
        super().__init__()
        self.config, self.in_dim, self.out_dim = config, in_dim, out_dim
        # numbers of a control: without a rank below the outputs there is no decoder.
        self.rank = out_dim if config.rank is None else min(config.rank, out_dim)

    def _add_output(self, generator: torch.Generator) -> None:
        """Make all that is behind the units; after them, since they are drawn first."""
        self.log_temperature = nn.Parameter(torch.zeros(()))
        drawn = self.rank < self.out_dim
        self.decoder = nn.Parameter(random_decoder(self.rank, self.out_dim, generator)) if drawn else None
        self.bias = nn.Parameter(torch.zeros(self.out_dim))
        self.search = UnitSearch(self.config, self.in_dim)

    @property
    def shape(self) -> Shape:
        """The names of the gate, blend and interpolation."""
        return Shape(self.config.gate, self.config.blend, self.config.interpolation)

    @property
    def num_units(self) -> int:
        """N."""
        return self.config.num_units

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """Map features to outputs. O(B (search + K (D + R)) + B R V)."""
        return self.explain(x).outputs

    @abstractmethod
    def explain(self, x: Float[Tensor, "B D"]) -> FieldOutput:
        """Return the outputs with the active units, their weights, distances and energies."""

    def _output(self, ids: Int[Tensor, "B K"], parts: FieldParts) -> FieldOutput:
        return FieldOutput(self.decode(parts.values) + self.bias, ids, parts)

    def decode(self, values: Float[Tensor, "B R"]) -> Float[Tensor, "B V"]:
        """Map control space to outputs, without the bias."""
        return values if self.decoder is None else values @ self.decoder

    def encode(self, outputs: Float[Tensor, "B V"]) -> Float[Tensor, "B R"]:
        """Return the controls whose decoded value is nearest to `outputs` in least squares."""
        if self.decoder is None:
            return outputs
        nearest: Tensor = torch.linalg.lstsq(self.decoder.T, outputs.T).solution.T
        return nearest


def random_units(config: FieldConfig, in_dim: int, rank: int, number: int, generator: torch.Generator) -> Units:
    """Draw units for inputs of zero mean and unit variance. O(N (D + R))."""
    normals = torch.randn(number, in_dim, generator=generator)
    normals /= normals.norm(dim=1, keepdim=True)
    centres = None if config.gate == "slab" else torch.randn(number, in_dim, generator=generator)
    if centres is None:
        offsets = torch.randn(number, generator=generator)
    else:
        # a plane through the centre, so that distances are small where the unit is active.
        offsets = -(normals * centres).sum(1)
    bands = torch.full((number, 2), config.band)
    controls = 0.01 * torch.randn(number, 3, rank, generator=generator)
    return Units(normals, offsets, bands, controls, centres)


def random_decoder(rank: int, out_dim: int, generator: torch.Generator) -> Float[Tensor, "R V"]:
    """Return orthonormal rows, so that a change of the controls and of the outputs have the same length."""
    rows: Tensor = torch.linalg.qr(torch.randn(out_dim, rank, generator=generator)).Q.T.contiguous()
    return rows
