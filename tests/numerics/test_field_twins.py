"""Fields against their plain twins, in values and gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsode.ops.field.evaluate import Shape, Units, evaluate, evaluate_plain
from rhapsode.ops.field.gates import BLENDS, GATES, blend_weights, effective_units
from rhapsode.ops.field.half_rows import half_dots, half_squared_distances, reads_halves
from rhapsode.ops.field.interpolation import INTERPOLATIONS, interpolation_weights, interpolation_weights_plain
from rhapsode.ops.field.products import active_products, active_products_plain
from rhapsode.ops.field.selection import active_energies, select_exact, select_reranked
from rhapsode.ops.ridge import ridge, ridge_plain
from rhapsode.ops.rounding import round_stochastically

DOUBLE = torch.float64
BANDS = st.floats(0.1, 5)


def make_units(num_units: int, width: int, rank: int, seed: int = 0) -> Units:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=DOUBLE)

    bands = draw(num_units, 2).abs() + 0.3
    return Units(draw(num_units, width), draw(num_units), bands, draw(num_units, 3, rank), draw(num_units, width))


@pytest.mark.parametrize("kind", INTERPOLATIONS)
@settings(max_examples=25, deadline=None)
@given(negative=BANDS, positive=BANDS, distance=st.floats(-8, 8))
def test_interpolation_is_that_of_its_twin_and_sums_to_one(
    kind: str, negative: float, positive: float, distance: float
) -> None:
    parts = [torch.tensor([v], dtype=DOUBLE) for v in (distance, negative, positive)]
    found = interpolation_weights(*parts, kind)[0]
    plain = interpolation_weights_plain(distance, negative, positive, kind)
    assert torch.allclose(found, torch.tensor(plain, dtype=DOUBLE), atol=1e-12)
    assert abs(float(found.sum()) - 1) < 1e-12
    assert abs(sum(plain) - 1) < 1e-12


@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_interpolation_passes_through_its_controls_and_is_constant_past_the_edges(kind: str) -> None:
    spots = torch.tensor([-9.0, -0.7, 0.0, 1.9, 9.0], dtype=DOUBLE)
    found = interpolation_weights(spots, torch.full_like(spots, 0.7), torch.full_like(spots, 1.9), kind)
    wanted = torch.eye(3, dtype=DOUBLE)[[0, 0, 1, 2, 2]]
    assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("kind", INTERPOLATIONS)
@pytest.mark.parametrize("side", [-1, 1])
def test_interpolation_is_continuous_and_its_gradient_is_that_of_differences(kind: str, side: int) -> None:
    controls = torch.tensor([0.3, -1.2, 2.0], dtype=DOUBLE)
    negative, positive = 0.7, 1.9
    band = negative if side < 0 else positive

    def value(s: torch.Tensor) -> torch.Tensor:
        return interpolation_weights(s, torch.full_like(s, negative), torch.full_like(s, positive), kind) @ controls

    for share in (0.0, 0.5, 1.0):
        near = value(torch.tensor([side * share * band - 1e-9, side * share * band + 1e-9], dtype=DOUBLE))
        assert abs(float(near[0] - near[1])) < 1e-7
    # off the corners of the kinds that have some.
    spots = (side * band * torch.tensor([0.1, 0.3, 0.45, 0.6, 0.9], dtype=DOUBLE)).requires_grad_()
    value(spots).sum().backward()
    step = 1e-6
    differences = (value(spots.detach() + step) - value(spots.detach() - step)) / (2 * step)
    assert spots.grad is not None
    assert torch.allclose(spots.grad, differences, atol=1e-7)


@pytest.mark.parametrize("kind", ["hermite", "catmull_rom", "local_poly"])
def test_smooth_interpolations_have_one_slope_at_the_plane_whatever_the_bands(kind: str) -> None:
    controls = torch.tensor([0.3, -1.2, 2.0], dtype=DOUBLE)
    s = torch.tensor([-1e-6, -5e-7, 5e-7, 1e-6], dtype=DOUBLE)
    values = interpolation_weights(s, torch.full_like(s, 0.7), torch.full_like(s, 1.9), kind) @ controls
    left, _, right = [float(b - a) / 5e-7 for a, b in pairwise(values)]
    assert left == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("num_units", [5, 7, 41])
def test_a_field_is_its_units_one_by_one(gate: str, blend: str, num_units: int) -> None:
    units = make_units(num_units, 6, 3)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    ids = select_exact(x, units.normals, units.offsets, units.centres, gate, 5)
    temperature = torch.tensor(0.8, dtype=DOUBLE)
    shape = Shape(gate, blend, "hermite")
    found = evaluate(x, units, ids, temperature, shape)
    assert torch.allclose(found.values, evaluate_plain(x, units, ids, 0.8, shape), atol=1e-9)
    if num_units == 5:
        assert torch.allclose(found.values, evaluate(x, units, None, temperature, shape).values, atol=1e-12)


@pytest.mark.parametrize("gate", GATES)
def test_a_fields_gradients_are_those_of_differences(gate: str) -> None:
    units = make_units(30, 4, 2)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    ids = select_exact(x, units.normals, units.offsets, units.centres, gate, 3)

    def value(*tables: torch.Tensor) -> torch.Tensor:
        *rows, temperature, inputs = tables
        return evaluate(inputs, Units(*rows), ids, temperature, Shape(gate, "softmax", "local_poly")).values

    tables = [*units, torch.tensor(0.9, dtype=DOUBLE), x]
    assert torch.autograd.gradcheck(value, [t.clone().requires_grad_() for t in tables])


def test_active_products_are_those_of_gathered_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(11, (7, 5), generator=generator)
    results = []
    for function in (active_products, active_products_plain):
        x = torch.randn(7, 6, generator=generator.manual_seed(1), dtype=DOUBLE).requires_grad_()
        table = torch.randn(11, 6, generator=generator, dtype=DOUBLE).requires_grad_()
        out = function(x, table, ids)
        (out * torch.randn(out.shape, generator=generator, dtype=DOUBLE)).sum().backward()
        results.append([out.detach(), x.grad, table.grad])
    for fast, plain in zip(*results, strict=True):
        assert torch.allclose(fast, plain, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [1, 7, 64])
def test_rows_of_halves_are_read_as_if_they_were_cast(width: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(width)
    table = torch.randn(50, width + 3, generator=generator).half()
    # the least and the largest there are, and what lies under the least normal number.
    table[:5, 0] = torch.tensor([0.0, -0.0, 6e-8, -5e-5, 65504.0]).half()
    rows = table[:, :width]
    ids = torch.randint(50, (4, 9), generator=generator)
    x = torch.randn(4, width, generator=generator)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        dots, squares = half_dots(rows, ids, x), half_squared_distances(rows, ids, x)
    finally:
        torch.set_num_threads(before)
    wide = rows.double()[ids]
    assert torch.allclose(dots.double(), torch.einsum("bd,bmd->bm", x.double(), wide), rtol=1e-5, atol=1e-5)
    plain = (x.double().unsqueeze(1) - wide).square().sum(-1)
    assert torch.allclose(squares.double(), plain, rtol=1e-5, atol=1e-5)
    assert half_dots(rows, ids[:0], x[:0]).shape == (0, 9)
    assert half_dots(rows, ids[:, :0], x).shape == (4, 0)


def test_halves_are_read_only_where_they_can_be() -> None:
    table, x = torch.zeros(2, 3).half(), torch.zeros(1, 3)
    assert reads_halves(table, x)
    assert not reads_halves(table.float(), x)
    assert not reads_halves(table, x.double())
    assert not reads_halves(table.to("meta"), x.to("meta"))


@pytest.mark.parametrize("k", [1, 40, 8500, 16_384, 20_000])
def test_the_nearest_of_many_blocks_are_those_of_one(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    centres = torch.randn(20_000, 3, generator=generator, dtype=DOUBLE)
    x = torch.randn(5, 3, generator=generator, dtype=DOUBLE)
    # blocks of which one holds every near unit, and one none.
    centres = centres[(centres - x[0]).square().sum(1).argsort(descending=True)]
    energy = (x.unsqueeze(1) - centres).square().sum(-1)
    assert torch.equal(select_exact(x, None, None, centres, "ball", k), energy.argsort(1)[:, :k])
    assert select_exact(x[:0], None, None, centres, "ball", k).shape == (0, k)


@pytest.mark.parametrize("gate", GATES)
def test_exact_selection_is_that_of_all_energies_sorted(gate: str) -> None:
    units = make_units(9000, 5, 1)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    every = torch.arange(9000).expand(3, -1)
    energy = active_energies(x, units.normals, units.offsets, units.centres, every, gate)
    found = select_exact(x, units.normals, units.offsets, units.centres, gate, 12)
    assert torch.equal(found, energy.argsort(1)[:, :12])


@pytest.mark.parametrize("gate", GATES)
def test_a_pass_in_bfloat16_ranked_again_finds_the_same_units(gate: str) -> None:
    units = make_units(2000, 16, 1)
    tables = units.normals.float(), units.offsets.float(), None if units.centres is None else units.centres.float()
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    exact = select_exact(x, *tables, gate, 8)
    found = select_reranked(x, *tables, gate, 8)
    # order within the eight is float32's in both, so only units lost in the first pass differ.
    assert float((exact == found).double().mean()) > 0.98


@pytest.mark.parametrize("spread", [1.0, 0.1])
@pytest.mark.parametrize("k", [1, 8])
@pytest.mark.parametrize("gate", GATES)
def test_a_pass_in_bfloat16_misses_few_units_of_many_and_none_for_a_mean(gate: str, k: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(k)
    normals = torch.nn.functional.normalize(torch.randn(20_000, 64, generator=generator))
    mean = torch.randn(64, generator=generator)
    # a few of very many planes, and points far from the origin: what rounding to eight bits loses.
    centres = mean + spread * torch.randn(20_000, 64, generator=generator)
    x = mean + spread * torch.randn(64, 64, generator=generator)
    tables = normals, -(normals * centres).sum(1), None if gate == "slab" else centres
    wide = [None if table is None else table.double() for table in tables]
    exact = select_exact(x.double(), wide[0], wide[1], wide[2], gate, k)
    found = select_reranked(x, *tables, gate, k)
    kept = (exact.unsqueeze(2) == found.unsqueeze(1)).any(2)
    # with 4K candidates and the mean left in, a tenth to two thirds of the planes were found.
    assert float(kept.double().mean()) >= 0.99


@pytest.mark.parametrize("blend", BLENDS)
def test_blend_weights_sum_to_one_and_favour_the_nearest(blend: str) -> None:
    energy = torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) * 4
    weights = blend_weights(energy, torch.tensor(0.5), blend)
    assert torch.allclose(weights.sum(1), torch.ones(20))
    assert torch.equal(weights.argmax(1), energy.argmin(1))
    assert bool((effective_units(weights) <= 6).all())


def test_ridge_is_its_twin_with_every_sample_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(15, 4, generator=generator, dtype=DOUBLE)
    y = torch.randn(15, 2, generator=generator, dtype=DOUBLE)
    found = ridge(x, y, (0.5,))
    weights, error = ridge_plain(x, y, 0.5)
    assert torch.allclose(found.weights, weights)
    assert found.error == pytest.approx(error)
    assert ridge(x, y, (1e-3, 0.5, 1e6)).error == min(ridge(x, y, (p,)).error for p in (1e-3, 0.5, 1e6))


def test_stochastic_rounding_is_right_on_average_and_never_a_step_off() -> None:
    values = torch.tensor([1.0 + 1e-4, -3.3, 2e-8, 5e-6, 0.0, 1000.3, 65504.0])
    rounded = round_stochastically(values.expand(40_000, -1), torch.Generator().manual_seed(0)).double()
    step = torch.tensor([2**-10, 2**-9, 2**-24, 2**-24, 0, 0.5, 0], dtype=DOUBLE)
    assert bool(((rounded - values).abs() <= step).all())
    # five standard errors of a mean of 40,000 draws a step apart.
    assert bool(((rounded.mean(0) - values).abs() <= 5 * step / 2 / 200 + 1e-12).all())
