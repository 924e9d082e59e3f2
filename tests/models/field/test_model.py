"""The first stages agree where they should, and the line beside the field is part of what is said."""

import math

import numpy as np
import pytest
import torch

from rhapsode.config import build_config
from rhapsode.errors import UserError
from rhapsode.models.field.base import BEFORE, NUM_SURENESS, BaseDistribution, sureness
from rhapsode.models.field.config import FieldModelConfig
from rhapsode.models.field.contexts import ContextProjection
from rhapsode.models.field.model import DenseStage, FieldModel, TableStage
from rhapsode.models.field.shortlist import Shortlist

SMALL = {"dim": 64, "window": 3, "stage1_dim": 12, "base": "unigram", "field": {"num_units": 16, "num_active": 4}}


def make_model(**changes: object) -> FieldModel:
    config = build_config(FieldModelConfig, {**SMALL, **changes}, "model")
    shortlist = Shortlist.fit(np.random.default_rng(0).integers(0, 20, 300), 20, None)
    return FieldModel(
        config, shortlist, BaseDistribution(shortlist.log_unigram, None), ContextProjection.build(config, 3)
    )


def some_ids(rows: int = 4, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 20, (rows, length), generator=torch.Generator().manual_seed(rows))


def test_a_table_is_any_matrix_after_the_mixing() -> None:
    table, dense = make_model(), make_model(stage1="dense")
    assert isinstance(table.stage1, TableStage)
    assert isinstance(dense.stage1, DenseStage)
    assert not dense.reads_sketches
    mixing = dense.projection.inner._views[0].srht.matrix()
    with torch.no_grad():
        table.stage1.table.copy_(mixing @ dense.stage1.linear.weight.T)
        table.stage1.bias.copy_(dense.stage1.bias.normal_())
    past, ids = torch.full((4, 2), BEFORE), some_ids()
    base = torch.randn(ids.numel(), 20, generator=torch.Generator().manual_seed(2)).log_softmax(1)
    one, other = (model.stage_one(model.project(past, ids), base) for model in (table, dense))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_every_part_learns() -> None:
    model = make_model()
    with torch.no_grad():
        for line in (model.linear, model.trust):
            assert line is not None
            line.weight.normal_()
    model.loss(some_ids(), some_ids(4)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # a decoder of small controls and all else: gradients are small, but there.
        assert float(parameter.grad.abs().sum()) > 0, name


def test_the_line_is_added_to_the_field() -> None:
    model, without = make_model(), make_model(linear=False)
    assert without.linear is None
    assert model.linear is not None
    h = torch.randn(5, model.hidden_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        # at the start the line says nothing.
        assert torch.equal(model.explain(h).outputs, model.field(h))
        model.linear.weight.normal_()
        wanted = model.field(h) + h @ model.linear.weight.T
    torch.testing.assert_close(model.explain(h).outputs, wanted)


@pytest.mark.parametrize("through", [True, False])
def test_gates_teach_the_first_stage_only_if_told(through: bool) -> None:
    model = make_model(gate_gradient=through)
    h = torch.randn(5, model.hidden_dim, requires_grad=True)
    # the line is zero, so that only the units could send anything back.
    model.explain(h).outputs.square().sum().backward()
    assert h.grad is not None
    assert bool(h.grad.abs().sum() > 0) == through


def test_the_base_is_trusted_as_the_context_says() -> None:
    model, without = make_model(), make_model(reads_base=False)
    assert without.trust is None
    assert without.hidden_dim == model.hidden_dim - NUM_SURENESS
    base = torch.randn(5, 20, generator=torch.Generator().manual_seed(1)).log_softmax(1)
    h = torch.randn(5, model.hidden_dim, generator=torch.Generator().manual_seed(2))
    assert torch.equal(without.weigh(h[:, :-NUM_SURENESS], base), base)
    with torch.no_grad():
        assert torch.equal(model.weigh(h, base), base)
        assert model.trust is not None
        model.trust.weight.normal_()
        torch.testing.assert_close(model.weigh(h, base), base * (1 + h @ model.trust.weight.T))
        logits = model.combine(h, base)
        torch.testing.assert_close(logits, model.weigh(h, base) + model.explain(h).outputs[:, model.class_of])


def test_sureness_tells_flat_from_sharp() -> None:
    flat = torch.full((1, 8), 1 / 8).log()
    torch.testing.assert_close(sureness(flat)[0, [0, 4]], torch.tensor([1 / 8, 0.3 * math.log(8)]))
    sharp = torch.tensor([[0.9, 0.05, 0.03, 0.02]]).log()
    found = sureness(sharp)[0]
    torch.testing.assert_close(found[:4], torch.cat([sharp[0, :2].exp(), 0.2 * sharp[0, :2]]))
    assert float(found[4]) < float(sureness(torch.full((1, 4), 0.25).log())[0, 4])
    assert sureness(torch.zeros(2, 1)).shape == (2, NUM_SURENESS)


def test_a_table_reads_ids_only() -> None:
    with pytest.raises(UserError, match=r"model.stage1 must not be table in probe mode.*got table"):
        build_config(FieldModelConfig, {"mode": "probe", "stage1": "table"}, "model")
    assert build_config(FieldModelConfig, {"mode": "probe"}, "model").first_stage == "dense"
    assert build_config(FieldModelConfig, {"whiten": "zca"}, "model").first_stage == "dense"
    with pytest.raises(UserError, match=r"model.whiten must be none without a matrix"):
        build_config(FieldModelConfig, {"whiten": "zca", "stage1": "table"}, "model")
