"""A field of local-linear units as a head: features in, outputs out, every unit an ordinary parameter."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rhapsode.nn.field.config import FieldConfig
from rhapsode.nn.field.head import SMALLEST_LOG, FieldHead, FieldOutput, random_units
from rhapsode.ops.field.evaluate import Units, evaluate


class Field(FieldHead):
    """The field of `FieldHead` in float32.

    A head for regressors and language models alike: it maps features (B, D) to outputs (B, V). Features should have
    about unit variance. Call `project` after every optimizer step.
    """

    def __init__(self, in_dim: int, out_dim: int, config: FieldConfig, seed: int = 0) -> None:
        """Draw all units: normals uniform on the sphere, planes and centres as far out as standardised inputs.

        Controls are drawn with a spread of 0.01, so that units differ and the field starts near its bias, zero.
        O(N (D + R)): 120k units in seconds.
        """
        super().__init__(in_dim, out_dim, config)
        generator = torch.Generator().manual_seed(seed)
        units = random_units(config, in_dim, self.rank, config.num_units, generator)
        self.normals = nn.Parameter(units.normals)
        self.offsets = nn.Parameter(units.offsets)
        self.log_bands = nn.Parameter(units.bands.log())
        self.controls = nn.Parameter(units.controls)
        self.centres = None if units.centres is None else nn.Parameter(units.centres)
        self._add_output(generator)

    def units(self) -> Units:
        """Return the tables, the bands as lengths; gradients flow through."""
        return Units(self.normals, self.offsets, self.log_bands.exp(), self.controls, self.centres)

    def explain(self, x: Float[Tensor, "B D"]) -> FieldOutput:
        """Return the outputs with the active units, their weights, distances and energies."""
        units = self.units()
        # where all units are active there is nothing to look for, and the products are dense.
        every = self.config.num_active == self.num_units
        ids = torch.arange(self.num_units, device=x.device).expand(x.shape[0], -1) if every else self.search(x, units)
        parts = evaluate(x, units, None if every else ids, self.log_temperature.exp(), self.shape)
        return self._output(ids, parts)

    @torch.no_grad()
    def project(self) -> None:
        """Give every normal unit length again, and keep the bands from closing; the search forgets its index."""
        self.normals.div_(self.normals.norm(dim=1, keepdim=True).clamp_min(1e-12))
        self.log_bands.clamp_(min=SMALLEST_LOG)
        self.log_temperature.clamp_(min=SMALLEST_LOG)
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
