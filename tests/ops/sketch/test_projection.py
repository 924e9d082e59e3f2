"""The whole way from raw features: linear, order-sensitive, saved by its seed, and loud about bad input."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rhapsode.config import build_config
from rhapsode.errors import StateError, UserError
from rhapsode.ops.sketch.config import ProjectionConfig
from rhapsode.ops.sketch.projection import Projection, RawFeatures, load_projection

CONFIG = ProjectionConfig(
    dense_dim=100, window=16, sparse_dim=50, num_buckets=512, num_hashes=2, dim=256, views=2, bloom_bits=4096, seed=3
)


def make_raw(count: int = 6, seed: int = 0) -> RawFeatures:
    draw = torch.Generator().manual_seed(seed)
    return RawFeatures(
        torch.randn(count, 100, generator=draw),
        torch.randint(0, 200, (count, 16), generator=draw),
        torch.randint(-1, 50, (count, 4), generator=draw),
        torch.randn(count, 4, generator=draw),
    )


def test_inner_products_survive_the_whole_way() -> None:
    raw = make_raw(2)
    dense = RawFeatures(dense=raw.dense)
    exact = float(raw.dense[0] @ raw.dense[1])
    lengths = float(raw.dense.norm(dim=1).prod())
    found = []
    for seed in range(60):
        config = CONFIG.model_copy(update={"window": 0, "sparse_dim": 0, "seed": seed, "views": 1})
        y = Projection(config)(dense)
        found.append(float(y[0] @ y[1]))
    estimates = torch.tensor(found)
    # each of the two stages has a variance of at most about (1 + cos^2) / M of the squared lengths.
    bound = lengths * (2 / 512 + 2 / 256) ** 0.5
    assert abs(float(estimates.mean()) - exact) < 4 * bound / 60**0.5
    assert float(estimates.std()) < 1.5 * bound


def test_two_views_are_independent_and_of_one_width_each() -> None:
    y = Projection(CONFIG)(make_raw())
    assert y.shape == (6, 512)
    cosines = torch.cosine_similarity(y[:, :256], y[:, 256:])
    assert float(cosines.abs().max()) < 5 / 16


@pytest.mark.parametrize("views", [1, 2])
def test_rows_of_a_matrix_add_up_to_what_the_mixed_sketch_gives(views: int) -> None:
    config = ProjectionConfig(
        window=9, sparse_dim=30, num_buckets=512, num_hashes=2, dim=256, views=views, scale=0.5, seed=7
    )
    projection = Projection(config)
    draw = torch.Generator().manual_seed(4)
    raw = RawFeatures(
        window=torch.randint(-1, 40, (11, 9), generator=draw),
        ids=torch.randint(-1, 30, (11, 3), generator=draw),
        values=torch.randn(11, 3, generator=draw),
    )
    matrix = torch.randn(views * 256, 5, generator=draw)
    mixed = [view.srht.matrix() for view in projection._views]
    table = torch.cat([m @ part for m, part in zip(mixed, matrix.split(256), strict=True)])
    rows, weights = projection.rows(raw)
    added = (table[rows] * weights.unsqueeze(-1)).sum(1)
    # scale stands in the weights already; the sketch is summed in another order.
    torch.testing.assert_close(added, projection.project(raw) @ matrix, rtol=1e-4, atol=1e-4)


def test_permuted_windows_project_apart() -> None:
    config = ProjectionConfig(window=16, num_buckets=2048, dim=1024)
    projection = Projection(config)
    window = torch.randint(0, 200, (20, 16), generator=torch.Generator().manual_seed(1))
    permuted = window[:, torch.randperm(16, generator=torch.Generator().manual_seed(2))]
    y, again, other = (projection(RawFeatures(window=w)) for w in (window, window.clone(), permuted))
    assert torch.equal(y, again)
    near = torch.cosine_similarity(y, other)
    # they share their unigrams, 16 of 46 n-grams; the bigrams, trigrams and all order hashes differ.
    assert float(near.max()) < 0.5
    bag = ProjectionConfig(window=16, num_buckets=2048, dim=1024, ngram_orders=(1,))
    alike = torch.cosine_similarity(*(Projection(bag)(RawFeatures(window=w)) for w in (window, permuted)))
    assert float(alike.mean()) > float(near.mean()) + 0.1


@pytest.mark.parametrize("kind", ["none", "pca", "zca"])
def test_what_is_saved_projects_bit_for_bit(tmp_path: Path, kind: str) -> None:
    projection = Projection(CONFIG.model_copy(update={"whiten": kind}))
    statistics = projection.statistics()
    for seed in range(3):
        statistics.update(projection.project(make_raw(40, seed)))
    fitted = projection.fit(statistics)
    fitted.save(tmp_path)
    loaded = load_projection(tmp_path)
    raw = make_raw(5, 9)
    assert torch.equal(loaded(raw), fitted(raw))
    assert loaded.config == fitted.config
    projection.save(tmp_path)
    assert load_projection(tmp_path).whitening is None
    with pytest.raises(StateError, match="fitted once and then frozen"):
        fitted.fit(statistics)


def test_half_precision_goes_in_and_out_and_gradient_flows() -> None:
    raw = make_raw()
    projection = Projection(CONFIG)
    wide = projection(raw)
    halves = projection(replace(raw, dense=raw.dense.half(), values=raw.values.half()))
    assert halves.dtype == torch.float16
    torch.testing.assert_close(halves.float(), wide, atol=2e-2, rtol=2e-3)
    dense = raw.dense.clone().requires_grad_()
    projection(replace(raw, dense=dense)).square().sum().backward()
    assert dense.grad is not None
    assert float(dense.grad.abs().min(0).values.max()) > 0


def test_overflow_is_reported_and_its_remedy_works() -> None:
    raw = replace(make_raw(), dense=torch.full((6, 100), 60000.0).half())
    with pytest.raises(UserError, match=r"must fit torch.float16, at most 65504; got .* Set scale to at most"):
        Projection(CONFIG)(raw)
    assert Projection(CONFIG.model_copy(update={"scale": 0.01}))(raw).isfinite().all()


def test_bad_input_is_refused() -> None:
    projection, raw = Projection(CONFIG), make_raw()
    with pytest.raises(UserError, match="dense must be given"):
        projection(replace(raw, dense=None))
    with pytest.raises(UserError, match="window must be None"):
        Projection(CONFIG.model_copy(update={"window": 0}))(raw)
    with pytest.raises(UserError, match="window must have 16 columns; got 8"):
        projection(replace(raw, window=raw.window[:, :8]))
    with pytest.raises(UserError, match="ids must be below sparse_dim = 50; got 50"):
        projection(replace(raw, ids=torch.full((6, 4), 50)))
    with pytest.raises(UserError, match="dense must be finite"):
        projection(replace(raw, dense=torch.full((6, 100), torch.nan)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of dense_dim, window and sparse_dim must be above 0"),
        (
            {"window": 4, "num_buckets": 10, "num_hashes": 3},
            "num_buckets must be a multiple of num_hashes; got 10 and 3",
        ),
        ({"window": 4, "ngram_orders": [0]}, "ngram_orders must name orders from 1 on"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_config(ProjectionConfig, settings, "projection")


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    projection = Projection(CONFIG.model_copy(update={"whiten": "pca"}))
    statistics = projection.statistics()
    statistics.update(projection.project(make_raw(20)))
    projection.fit(statistics).save(tmp_path)
    (tmp_path / "projection.safetensors").write_bytes(b"nothing")
    with pytest.raises(StateError, match="must hold a projection"):
        load_projection(tmp_path)
    (tmp_path / "projection.json").write_text('{"config": {"dense_dim": -1}}')
    with pytest.raises(StateError, match="must hold a projection"):
        load_projection(tmp_path)
