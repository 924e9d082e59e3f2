"""Units and a temperature from data: planes through cluster centres, sloped as the targets are."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rhapsode.nn.field.field import Field
from rhapsode.ops.field.evaluate import Units
from rhapsode.ops.field.gates import blend_weights, effective_units
from rhapsode.ops.field.selection import active_energies

_BLOCK = 1 << 24
_TINY = 1e-12


@torch.no_grad()
def seed_field(
    field: Field, x: Float[Tensor, "S D"], targets: Float[Tensor, "S V"], generator: torch.Generator
) -> None:
    """Start a field's units from samples, by its `init` setting, and calibrate bands and temperature.

    `kmeans`: planes through the centres of mini-batch clusters; the normal is the direction in which the targets vary
    with the inputs inside the cluster (the first projection of LWPR, Vijayakumar & Schaal 2000), and the controls are
    the cluster's mean target, tilted by its slope. With fewer samples than units, the rest repeat samples with a little
    noise. `random`: units stay as they were drawn; only offsets and centres are put where there are samples.
    """
    picks = _picks(len(x), field.num_units, generator)
    units = field.units()
    if field.config.init == "kmeans":
        units = _cluster_units(field, x, targets, picks, generator)
    else:
        spots = x[picks] + 0.01 * torch.randn(len(picks), x.shape[1], generator=generator, dtype=x.dtype)
        offsets = -(units.normals * spots).sum(1)
        units = units._replace(offsets=offsets, centres=None if units.centres is None else spots)
    field.write_units(torch.arange(field.num_units), units)
    field.search.reset(rebuild=True)
    calibrate(field, x[:1024])


@torch.no_grad()
def calibrate(field: Field, x: Float[Tensor, "S D"]) -> None:
    """Set the temperature so that `sharing` of the active units have weight, and the bands to the active distances."""
    units = field.units()
    ids = field.search(x, units)
    centres = None if field.config.gate == "slab" else units.centres
    energy = active_energies(x, units.normals, units.offsets, centres, ids, field.config.gate)
    wanted = 1 + field.config.sharing * (ids.shape[1] - 1)
    low, high = torch.tensor(-12.0, dtype=x.dtype), torch.tensor(12.0, dtype=x.dtype)
    for _ in range(40):
        middle = (low + high) / 2
        found = effective_units(blend_weights(energy, middle.exp(), field.config.blend)).mean()
        low, high = (middle, high) if found < wanted else (low, middle)
    field.log_temperature.copy_(((low + high) / 2).clamp(-6, 6))


def _picks(num_samples: int, num_units: int, generator: torch.Generator) -> Int[Tensor, " N"]:
    """Return samples to start from, each once before any is repeated."""
    rounds = -(-num_units // num_samples)
    return torch.cat([torch.randperm(num_samples, generator=generator) for _ in range(rounds)])[:num_units]


def cluster_centres(
    x: Float[Tensor, "S D"], start: Float[Tensor, "N D"], rounds: int = 8
) -> tuple[Float[Tensor, "N D"], Int[Tensor, " S"]]:
    """Return centres after rounds of Lloyd's steps, and the cluster of every sample. O(rounds S N D).

    A centre that loses all its samples stays where it is.
    """
    centres = start.clone()
    owner = nearest_centre(x, centres)
    for _ in range(rounds):
        sums = torch.zeros_like(centres).index_add_(0, owner, x)
        counts = torch.bincount(owner, minlength=len(centres)).unsqueeze(1)
        centres = torch.where(counts > 0, sums / counts.clamp_min(1), centres)
        owner = nearest_centre(x, centres)
    return centres, owner


def nearest_centre(x: Float[Tensor, "S D"], centres: Float[Tensor, "N D"]) -> Int[Tensor, " S"]:
    """Return the nearest centre of every sample, in blocks of 64 MB."""
    lengths = centres.square().sum(1)
    parts = torch.split(x, max(1, _BLOCK // len(centres)))
    return torch.cat([torch.addmm(lengths, part, centres.T, alpha=-2).argmin(1) for part in parts])


def _cluster_units(field: Field, x: Tensor, targets: Tensor, picks: Tensor, generator: torch.Generator) -> Units:
    noise = torch.randn(len(picks), x.shape[1], generator=generator, dtype=x.dtype)
    start = x[picks] + 1e-3 * noise
    # more than about 50 samples a unit sharpen no centre.
    sample = x if len(x) <= 50 * len(picks) else x[torch.randperm(len(x), generator=generator)[: 50 * len(picks)]]
    centres, _ = cluster_centres(sample, start)
    owner = nearest_centre(x, centres)
    number, counts = len(centres), torch.bincount(owner, minlength=len(centres)).to(x.dtype)
    overall = targets.mean(0)
    encoded = field.encode(targets - overall)

    def mean_of(values: Tensor) -> Tensor:
        # one sample's worth of the overall mean, zero, keeps small clusters from extremes.
        return values.new_zeros(number, values.shape[1]).index_add_(0, owner, values) / (counts + 1).unsqueeze(1)

    level = mean_of(encoded)
    inner = x - centres[owner]
    deviation = encoded - level[owner]
    # one number a sample that stands for its target: the direction in which controls vary most.
    axis = torch.linalg.eigh(deviation.T @ deviation).eigenvectors[:, -1]
    lean = mean_of(inner * (deviation @ axis).unsqueeze(1))
    drawn = torch.randn(number, x.shape[1], generator=generator, dtype=x.dtype)
    length = lean.norm(dim=1, keepdim=True)
    normals = torch.where(length > _TINY, lean / length.clamp_min(_TINY), drawn / drawn.norm(dim=1, keepdim=True))
    along = (inner * normals[owner]).sum(1, keepdim=True)
    spread = mean_of(along.square())
    typical = (along.square().mean() + _TINY).expand_as(spread)
    slope = mean_of(along * deviation) / (spread + 0.5 * typical)
    band = field.config.band * torch.maximum(spread, typical).sqrt()
    controls = torch.stack([level - slope * band, level, level + slope * band], 1)
    field.bias.copy_(overall)
    bands = band.expand(-1, 2).contiguous()
    offsets = -(normals * centres).sum(1)
    return Units(normals, offsets, bands, controls, None if field.centres is None else centres)
