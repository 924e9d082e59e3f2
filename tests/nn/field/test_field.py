"""A field as a head: shapes, starts, gradients, search, files."""

import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rhapsode.config import build_config
from rhapsode.errors import StateError, UserError
from rhapsode.nn.field import Field, FieldConfig, LargeField
from rhapsode.nn.field.files import load_field, save_field
from rhapsode.nn.field.index import UnitIndex
from rhapsode.nn.field.seeding import calibrate, seed_field
from rhapsode.ops.field.gates import effective_units
from rhapsode.ops.field.selection import rerank, select_exact

GATES = ["slab", "ball", "product"]


def make_config(**changes: object) -> FieldConfig:
    return build_config(FieldConfig, {"num_units": 50, "num_active": 6, "rank": 4} | changes, "field")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("num_active", [6, 50])
@pytest.mark.parametrize("rank", [4, None])
def test_every_parameter_gets_gradient(gate: str, num_active: int, rank: int | None) -> None:
    field = Field(8, 11, make_config(gate=gate, num_active=num_active, rank=rank))
    out = field(draw(64, 8))
    assert out.shape == (64, 11)
    out.square().sum().backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("init", ["kmeans", "random"])
@pytest.mark.parametrize("num_units", [50, 400])
def test_seeding_makes_finite_units_with_unit_normals(init: str, num_units: int) -> None:
    field = Field(5, 3, make_config(init=init, num_units=num_units))
    x, y = draw(200, 5), draw(200, 3, seed=1)
    seed_field(field, x, y, torch.Generator().manual_seed(0))
    assert torch.allclose(field.normals.norm(dim=1), torch.ones(num_units), atol=1e-5)
    assert all(bool(torch.isfinite(p).all()) for p in field.parameters())
    assert bool(torch.isfinite(field(x)).all())


def test_a_start_from_clusters_is_nearer_to_the_targets_than_their_mean() -> None:
    x = draw(600, 2)
    y = (x[:, :1] * 2).sin() + x[:, 1:]
    field = Field(2, 1, make_config(gate="ball"))
    seed_field(field, x, y, torch.Generator().manual_seed(0))
    error = float((field(x) - y).square().mean().detach())
    assert error < 0.3 * float((y - y.mean(0)).square().mean())


@pytest.mark.parametrize("sharing", [0.1, 0.6])
@pytest.mark.parametrize("blend", ["softmax", "inverse"])
def test_calibration_gives_the_share_of_units_that_was_asked_for(sharing: float, blend: str) -> None:
    config = make_config(gate="product", sharing=sharing, num_active=20, blend=blend)
    field = Field(6, 2, config)
    x = draw(300, 6)
    calibrate(field, x)
    found = float(effective_units(field.explain(x).parts.weights).mean().detach())
    wanted = 1 + sharing * 19
    # the inverse blend cannot be sharper than its distances allow.
    assert found == pytest.approx(wanted, rel=0.02) or (blend == "inverse" and found > wanted)


def test_a_hundred_thousand_units_are_drawn_in_seconds() -> None:
    start = time.perf_counter()
    field = Field(32, 100, make_config(num_units=120_000, rank=8))
    assert field.num_units == 120_000
    # seconds on a quiet machine; the bound leaves room for a busy one.
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("gate", ["slab", "ball"])
def test_an_index_that_visits_every_cell_agrees_with_exact_search(gate: str) -> None:
    normals, offsets, centres = draw(3000, 6), draw(3000, seed=1), draw(3000, 6, seed=2)
    x = draw(20, 6, seed=3)
    tables = (None if gate == "ball" else normals, offsets, None if gate == "slab" else centres)
    index = UnitIndex(*tables, gate)
    exact = select_exact(x, *tables, gate, 8)
    found = rerank(x, index.candidates(x, 8, 1.0), *tables, gate, 8)
    assert torch.equal(found, exact)


@pytest.mark.parametrize(("gate", "least"), [("slab", 0.9), ("ball", 0.95), ("product", 0.9)])
def test_an_index_that_visits_some_cells_nearly_agrees(gate: str, least: float) -> None:
    config = make_config(gate=gate, num_units=4000, num_active=8, search="index", index_share=0.5)
    field = Field(4, 2, config)
    units = field.units()
    x = draw(60, 4, seed=3)
    found = field.explain(x).ids
    centres = None if gate == "slab" else units.centres
    exact = select_exact(x, units.normals.detach(), units.offsets.detach(), centres, gate, 8)
    recall = (found.unsqueeze(2) == exact.unsqueeze(1)).any(1).double().mean()
    assert float(recall) > least


def test_auto_search_goes_by_the_number_of_units_and_the_gate() -> None:
    ways = [
        Field(3, 2, make_config(gate=gate, num_units=n, index_from=60)).search.way for gate in GATES for n in (50, 60)
    ]
    assert ways == ["exact", "reranked", "exact", "index", "exact", "index"]
    assert Field(65, 2, make_config(gate="ball", num_units=60, index_from=60)).search.way == "reranked"


def test_project_restores_unit_normals_and_keeps_bands_open() -> None:
    field = Field(4, 2, make_config())
    with torch.no_grad():
        field.normals.mul_(3)
        field.log_bands.fill_(-40)
    field.project()
    assert torch.allclose(field.normals.norm(dim=1), torch.ones(50))
    assert float(field.log_bands.detach().exp().min()) >= 9e-4


@pytest.mark.parametrize("kind", ["float32", "float64", "large"])
@pytest.mark.parametrize("gate", GATES)
def test_a_reload_predicts_bit_for_bit_the_same(tmp_path: Path, gate: str, kind: str) -> None:
    config = make_config(gate=gate)
    x = draw(30, 5)
    field: Field | LargeField
    if kind == "large":
        field = LargeField(5, 7, config, masters=20)
        field(x).square().sum().backward()
        field.update_units(0.1)
    else:
        field = Field(5, 7, config).to(getattr(torch, kind))
    x = x.to(torch.float64 if kind == "float64" else torch.float32)
    save_field(field, tmp_path / "field.safetensors")
    field.eval()
    again = load_field(tmp_path / "field.safetensors").eval()
    assert type(again) is type(field)
    assert torch.equal(field(x), again(x))
    for name, value in field.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype


def test_a_saved_field_is_read_by_the_package_of_its_format(tmp_path: Path) -> None:
    field = LargeField(5, 7, make_config(gate="ball"))
    save_field(field, tmp_path / "field.safetensors")
    found = load_file(tmp_path / "field.safetensors")
    assert found.keys() == field.state_dict().keys()
    for name, value in field.state_dict().items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_a_field_with_all_units_active_looks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    field = Field(5, 7, make_config(num_active=50))
    monkeypatch.setattr(field, "search", None)
    assert field.explain(draw(3, 5)).ids.tolist() == [list(range(50))] * 3


def test_files_that_are_no_fields_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    with pytest.raises(UserError, match="must be a file"):
        load_field(path)
    path.write_bytes(b"nothing")
    with pytest.raises(StateError, match="it is damaged"):
        load_field(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(StateError, match="must have format rhapsode-field-1"):
        load_field(path)
    field = Field(3, 2, make_config())
    save_field(field, path)
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = file.metadata()
    save_file({name: value.half() for name, value in tensors.items()}, path, metadata)
    with pytest.raises(StateError, match="dtypes that it names"):
        load_field(path)
    with torch.no_grad():
        field.bias.fill_(float("nan"))
    with pytest.raises(StateError, match=r"field\.bias must be finite"):
        save_field(field, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_active": 51}, r"field.num_active must be at most field.num_units; got 51 and 50"),
        ({"band": 0.0}, r"field.band must be greater than 0; got 0.0"),
        ({"band": -1.0}, r"field.band must be greater than 0"),
        ({"num_units": 0}, r"field.num_units must be greater than or equal to 1"),
        ({"gate": "cube"}, r"field.gate must be 'slab', 'ball' or 'product'; got 'cube'"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(**changes)


def test_without_faiss_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"must have the package faiss-cpu; it is not installed\. Run: pip install"):
        Field(5, 7, make_config(search="index"))(draw(3, 5))
