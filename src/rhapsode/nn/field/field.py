"""A field of local-linear units as a head: features in, outputs out, every unit an ordinary parameter."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.nn.field.config import FieldConfig
from rhapsode.nn.field.search import UnitSearch
from rhapsode.ops.field.evaluate import FieldParts, Shape, Units, evaluate

# a band or a temperature below this share of its start would overflow a slope in float32.
_SMALLEST = 1e-3


class FieldOutput(NamedTuple):
    """What a field says of a batch: outputs (B, V), active ids (B, K), and the parts they were made of."""

    outputs: Tensor
    ids: Tensor
    parts: FieldParts


class Field(nn.Module):
    """f(x) = bias + decoder^T sum_i a_i(x) v_i(x), over the K active units (docs/field.md has the equations).

    A head for regressors and language models alike: it maps features (B, D) to outputs (B, V). Features should have
    about unit variance. Call `project` after every optimizer step.
    """

    def __init__(self, in_dim: int, out_dim: int, config: FieldConfig, seed: int = 0) -> None:
        """Draw all units: normals uniform on the sphere, planes and centres as far out as standardised inputs.

        Controls are drawn with a spread of 0.01, so that units differ and the field starts near its bias, zero.
        O(N (D + R)): 120k units in seconds.
        """
        super().__init__()
        self.config, self.in_dim, self.out_dim = config, in_dim, out_dim
        rank = config.rank if config.rank is not None and config.rank < out_dim else None
        generator = torch.Generator().manual_seed(seed)
        units = random_units(config, in_dim, rank or out_dim, generator)
        self.normals = nn.Parameter(units.normals)
        self.offsets = nn.Parameter(units.offsets)
        self.log_bands = nn.Parameter(units.bands.log())
        self.controls = nn.Parameter(units.controls)
        self.centres = None if units.centres is None else nn.Parameter(units.centres)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.decoder = nn.Parameter(random_decoder(rank, out_dim, generator)) if rank else None
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.search = UnitSearch(config, in_dim)

    @property
    def shape(self) -> Shape:
        """The names of the gate, blend and interpolation."""
        return Shape(self.config.gate, self.config.blend, self.config.interpolation)

    @property
    def num_units(self) -> int:
        """N."""
        return self.normals.shape[0]

    def units(self) -> Units:
        """Return the tables, the bands as lengths; gradients flow through."""
        return Units(self.normals, self.offsets, self.log_bands.exp(), self.controls, self.centres)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """Map features to outputs. O(B (search + K (D + R)) + B R V)."""
        return self.explain(x).outputs

    def explain(self, x: Float[Tensor, "B D"]) -> FieldOutput:
        """Return the outputs with the active units, their weights, distances and energies."""
        units = self.units()
        # where all units are active there is nothing to look for, and the products are dense.
        every = self.config.num_active == self.num_units
        ids = torch.arange(self.num_units, device=x.device).expand(x.shape[0], -1) if every else self.search(x, units)
        parts = evaluate(x, units, None if every else ids, self.log_temperature.exp(), self.shape)
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

    @torch.no_grad()
    def project(self) -> None:
        """Give every normal unit length again, and keep the bands from closing; the search forgets its index."""
        self.normals.div_(self.normals.norm(dim=1, keepdim=True).clamp_min(1e-12))
        self.log_bands.clamp_(min=_log(_SMALLEST))
        self.log_temperature.clamp_(min=_log(_SMALLEST))
        self.search.reset()

    @torch.no_grad()
    def unit_rows(self, ids: Int[Tensor, " M"]) -> Units:
        """Return copies of the named units."""
        centres = None if self.centres is None else self.centres[ids]
        return Units(self.normals[ids], self.offsets[ids], self.log_bands[ids].exp(), self.controls[ids], centres)

    @torch.no_grad()
    def write_units(self, ids: Int[Tensor, " M"], units: Units) -> None:
        """Replace the named units by rows of the same width; `units` has M of them."""
        rows = {
            "normals": units.normals,
            "offsets": units.offsets,
            "log_bands": units.bands.log(),
            "controls": units.controls,
            "centres": units.centres,
        }
        for name, parameter in self.unit_parameters().items():
            values = rows[name]
            assert values is not None
            # a copy, since the rows may be views of these very tables.
            parameter[ids] = values.to(parameter.dtype).clone()
        self.search.reset()

    def unit_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters whose first axis counts units: what a moved unit's optimizer state is reset in."""
        tables = {
            "normals": self.normals,
            "offsets": self.offsets,
            "log_bands": self.log_bands,
            "controls": self.controls,
        }
        return tables if self.centres is None else tables | {"centres": self.centres}


def random_units(config: FieldConfig, in_dim: int, rank: int, generator: torch.Generator) -> Units:
    """Draw units for inputs of zero mean and unit variance. O(N (D + R))."""
    number = config.num_units
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


def _log(value: float) -> float:
    return float(torch.tensor(value).log())
