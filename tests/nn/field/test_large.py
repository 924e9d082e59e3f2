"""Float16 fields: masters, stochastic rounding, overflow, and agreement with the float32 field."""

import pytest
import torch

from rhapsode.errors import StateError
from rhapsode.nn.field import Field, FieldConfig, LargeField
from rhapsode.nn.field.half_table import HalfTable


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_masters_recover_small_updates_that_float16_loses() -> None:
    rows, step = torch.arange(4), 1e-4
    table = HalfTable(4, 3, masters=4)
    table.fill(0, torch.ones(4, 3))
    pure = torch.ones(4, 3, dtype=torch.float16)
    for _ in range(100):
        table.write(rows, table.read(rows) + step)
        pure += torch.tensor(step, dtype=torch.float16)
    # float16 near one has steps of 1e-3, so each update alone rounds to nothing.
    assert torch.equal(pure, torch.ones(4, 3, dtype=torch.float16))
    assert torch.allclose(table.read(rows), torch.full((4, 3), 1.01), atol=1e-5)
    assert torch.allclose(table.stored(rows), torch.full((4, 3), 1.01), atol=1e-3)


def test_without_masters_small_updates_survive_on_average() -> None:
    table = HalfTable(1, 4000)
    table.fill(0, torch.ones(1, 4000))
    row = torch.tensor([0])
    for _ in range(100):
        table.write(row, table.read(row) + 1e-4)
    # each number walks in steps of 1e-3: five standard errors of the mean of 4,000.
    assert float(table.read(row).mean()) == pytest.approx(1.01, abs=5 * 0.0032 / 4000**0.5 + 1e-5)


def test_the_cache_of_masters_is_bounded_and_gives_up_the_rows_touched_longest_ago() -> None:
    table = HalfTable(10, 2, masters=4)
    value = 1 + 2**-15
    for row in range(6):
        table.write(torch.tensor([row]), torch.full((1, 2), value))
    assert len(table) == 4
    held = [bool((table.read(torch.tensor([row])) == value).all()) for row in range(10)]
    assert held == [False, False, True, True, True, True, False, False, False, False]
    table.write(torch.arange(10), torch.full((10, 2), value))
    assert len(table) == 4
    table.flush()
    assert len(table) == 0
    assert torch.equal(table.read(torch.arange(10)), table.stored(torch.arange(10)))
    assert bool((table.stored(torch.arange(10)) - value).abs().max() < 2**-9)


def test_a_value_beyond_float16_scales_its_table_and_is_reported() -> None:
    table = HalfTable(3, 2, masters=1)
    table.fill(0, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    with pytest.warns(UserWarning, match="beyond float16"):
        table.write(torch.tensor([1]), torch.tensor([[1e6, 1.0]]))
    assert table.rescalings == 1
    table.flush()
    stored = table.stored(torch.arange(3))
    assert torch.allclose(stored[[0, 2]], torch.tensor([[1.0, 2.0], [5.0, 6.0]]))
    assert float(stored[1, 0]) == pytest.approx(1e6, rel=1e-3)
    with pytest.raises(StateError, match="must be finite"):
        table.write(torch.tensor([1]), torch.tensor([[float("inf"), 0.0]]))


@pytest.mark.parametrize("gate", ["slab", "ball", "product"])
def test_a_large_field_says_what_a_field_of_the_same_units_says(gate: str) -> None:
    config = FieldConfig(num_units=60, num_active=5, rank=4, gate=gate)
    large = LargeField(6, 9, config, masters=60).eval()
    field = Field(6, 9, config)
    field.write_units(torch.arange(60), large.unit_rows(torch.arange(60)))
    with torch.no_grad():
        assert field.decoder is not None
        assert large.decoder is not None
        field.decoder.copy_(large.decoder)
    x = draw(40, 6)
    wanted = field.explain(x)
    found = large.explain(x)
    assert torch.equal(wanted.ids, found.ids)
    assert torch.allclose(wanted.outputs, found.outputs, atol=1e-5)
    large.train()
    assert torch.allclose(wanted.outputs, large(x), atol=1e-5)


@pytest.mark.parametrize("gate", ["slab", "ball", "product"])
def test_a_query_reads_rows_in_place_and_says_the_same(gate: str) -> None:
    field = LargeField(9, 4, FieldConfig(num_units=60, num_active=6, gate=gate, rank=3), seed=1).eval()
    x = draw(25, 9).requires_grad_()
    plain = field.explain(x)
    assert plain.outputs.requires_grad
    with torch.no_grad():
        found = field.explain(x)
    assert torch.equal(found.ids, plain.ids)
    assert torch.allclose(found.outputs, plain.outputs, atol=1e-5)
    for one, other in zip(found.parts, plain.parts, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_training_a_large_field_touches_only_active_rows_and_lowers_the_loss() -> None:
    large = LargeField(4, 1, FieldConfig(num_units=300, num_active=8, gate="ball"), masters=100)
    x = draw(32, 4)
    y = x[:, :1] * x[:, 1:2]
    before = large.controls.data.clone()
    first = None
    for _ in range(40):
        loss = (large(x) - y).square().mean()
        first = float(loss.detach()) if first is None else first
        loss.backward()
        norms = large.update_units(0.02)
    assert float(loss.detach()) < 0.3 * first
    touched = large.explain(x).ids.unique()
    assert len(touched) < 300
    assert bool((norms[touched] > 0).any())
    changed = (large.controls.data != before).any(1).nonzero().squeeze(1)
    assert 0 < len(changed) < 300
    assert torch.allclose(large.unit_rows(torch.arange(300)).normals.norm(dim=1), torch.ones(300), atol=1e-3)


def test_an_update_needs_a_backward_pass() -> None:
    large = LargeField(4, 1, FieldConfig(num_units=30, num_active=4))
    with pytest.raises(StateError, match="must follow forward"):
        large.update_units(0.1)


def test_its_size_is_that_of_its_tables() -> None:
    config = FieldConfig(num_units=1000, num_active=4, gate="slab", rank=16)
    large = LargeField(64, 500, config)
    tables = 2 * 1000 * (64 + 3 + 3 * 16)
    # beside the tables: three second moments a unit, the decoder, the bias, and a few scalars.
    assert tables < large.size_bytes() <= tables + 12 * 1000 + 4 * (16 * 500 + 500) + 64


def test_planes_past_float16_are_told() -> None:
    field = LargeField(3, 2, FieldConfig(num_units=8, num_active=2, gate="slab"))
    rows = field.unit_rows(torch.tensor([5]))
    with pytest.warns(UserWarning, match="is beyond float16"):
        field.write_units(torch.tensor([5]), rows._replace(offsets=torch.tensor([1e6])))
    with pytest.raises(StateError, match=r"field planes must stay within float16; .* Scale the inputs"):
        field(torch.ones(1, 3))
