"""The copy in bfloat16 of a ranked scan: the same units as without it, and never of tables that have changed."""

import pytest
import torch
from torch import Tensor

from rhapsode.nn.field import Field, FieldConfig, LargeField
from rhapsode.nn.field.search import UnitSearch
from rhapsode.ops.field.selection import select_exact

GATES = ("slab", "ball", "product")


def make(gate: str, *, large: bool = False, search_copy: bool = True) -> Field | LargeField:
    config = FieldConfig(num_units=600, num_active=8, gate=gate, search="reranked", search_copy=search_copy)
    return (LargeField if large else Field)(12, 3, config)


def draw(seed: int, rows: int = 40, mean: float = 0.0) -> Tensor:
    return mean + torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed))


def recall(field: Field | LargeField, x: Tensor) -> float:
    units = field.unit_rows(torch.arange(600))
    wide = [None if table is None else table.double() for table in (units.normals, units.offsets, units.centres)]
    exact = select_exact(x.double(), *wide, field.config.gate, 8)
    with torch.no_grad():
        found = field.explain(x).ids
    return float((exact.unsqueeze(2) == found.unsqueeze(1)).any(2).double().mean())


def has_copy(search: UnitSearch) -> bool:
    return search.size_bytes() > 0


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("large", [False, True])
def test_it_is_made_at_the_second_search_and_finds_the_same_units(gate: str, large: bool) -> None:
    field = make(gate, large=large).eval()
    assert recall(field, draw(0)) > 0.99
    assert not has_copy(field.search)
    assert recall(field, draw(1)) > 0.99
    assert has_copy(field.search)
    planes, centres = 2 * 600 * 15, 2 * 600 * 12 + 4 * 600
    held = {"slab": planes, "ball": centres, "product": planes + centres}[gate]
    assert field.search.size_bytes() == held + 4 * 12
    # few inputs use it too.
    assert recall(field, draw(2, rows=2)) > 0.9
    without = make(gate, large=large, search_copy=False).eval()
    for seed in range(3):
        assert torch.equal(field.explain(draw(seed)).ids, without.explain(draw(seed)).ids)
    assert not has_copy(without.search)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("large", [False, True])
def test_it_is_dropped_when_units_change(gate: str, large: bool) -> None:
    field = make(gate, large=large).eval()
    for seed in range(2):
        recall(field, draw(seed))
    assert has_copy(field.search)
    ids = torch.arange(600)
    units = field.unit_rows(ids)
    field.write_units(ids, units._replace(offsets=-units.offsets.flip(0), centres=_flipped(units.centres)))
    for seed in range(3):
        assert recall(field, draw(seed)) > 0.99


def _flipped(centres: Tensor | None) -> Tensor | None:
    return None if centres is None else centres.flip(0).clone()


def test_it_is_dropped_when_an_optimizer_moves_units() -> None:
    field = make("ball")
    for seed in range(2):
        recall(field, draw(seed))
    assert has_copy(field.search)
    assert isinstance(field, Field)
    assert field.centres is not None
    optimizer = torch.optim.SGD([field.centres], lr=1.0)
    field.centres.grad = torch.randn(600, 12, generator=torch.Generator().manual_seed(9))
    optimizer.step()
    for seed in range(3):
        assert recall(field, draw(seed)) > 0.99


@pytest.mark.parametrize("large", [False, True])
def test_it_is_dropped_when_a_table_is_exchanged_or_written_past_the_field(large: bool) -> None:
    field = make("ball", large=large).eval()
    for seed in range(2):
        recall(field, draw(seed))
    assert has_copy(field.search)
    if isinstance(field, Field):
        assert field.centres is not None
        field.centres.data = field.centres.data.flip(0).clone()
    else:
        assert field.balls is not None
        field.balls.data[:] = field.balls.data.flip(0).clone()
    for seed in range(3):
        assert recall(field, draw(seed)) > 0.99


@pytest.mark.parametrize("gate", GATES)
def test_inputs_far_from_its_origin_do_not_use_it(gate: str) -> None:
    field = make(gate).eval()
    far = 30.0
    units = field.unit_rows(torch.arange(600))
    centres = None if units.centres is None else units.centres + far
    offsets = units.offsets - far * units.normals.sum(1)
    field.write_units(torch.arange(600), units._replace(offsets=offsets, centres=centres))
    for seed in range(2):
        recall(field, draw(seed))
    assert has_copy(field.search)
    assert recall(field, draw(2, rows=1, mean=far)) > 0.99
    assert recall(field, draw(3, mean=far)) > 0.97
    assert recall(field, draw(4, rows=2, mean=far)) > 0.9


def test_tables_made_for_inference_are_cast_each_time() -> None:
    with torch.inference_mode():
        field = make("ball").eval()
        for seed in range(3):
            field.explain(draw(seed))
    assert not has_copy(field.search)
