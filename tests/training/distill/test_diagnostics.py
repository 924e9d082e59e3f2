import numpy as np
import pytest
import torch

from rhapsode.runfolder import RunFolder
from rhapsode.training.distill.diagnostics import gini, relocation_gain, ridge_r2


@pytest.mark.parametrize("seed", range(20))
def test_gini_is_a_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.exponential(size=rng.integers(1, 30)) ** rng.integers(0, 6)
    found = gini(values)
    assert -1e-9 <= found < 1
    # neither order nor unit matters.
    assert found == pytest.approx(gini(7 * values[::-1]), abs=1e-9)
    assert gini(np.zeros(4)) == 0.0


def test_ridge_finds_what_is_linear_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 10, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(10, 5, generator=generator, dtype=torch.float64)
    assert ridge_r2(x, y) > 0.99
    assert ridge_r2(x, torch.randn(400, 5, generator=generator, dtype=torch.float64)) < 0.05
    assert ridge_r2(x, torch.zeros(400, 5, dtype=torch.float64)) == 0.0
    assert ridge_r2(x[:1], y[:1]) == 0.0


def write_moves(folder: RunFolder, gains: list[float | None]) -> None:
    import json

    folder.path.mkdir()
    rows = [
        {"before": 3.0, "after": 2.5, "later": None if g is None else 2.0 - g}
        | {"control_before": 3.0, "control_after": 3.0, "control_later": 2.0}
        for g in gains
    ]
    folder.metrics.write_text("".join(json.dumps({"relocation": row}) + "\n" for row in rows))


def test_moves_are_judged_against_their_controls(tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = RunFolder(tmp_path / "run")
    write_moves(folder, [0.4, 0.6, 0.5, None])
    found = relocation_gain(folder)
    assert found.value == pytest.approx(0.5)
    assert found.n == 3
    assert found.details == {"moves": 4, "gain_at_once": 0.5}
    assert found.warning is None
    assert found.interval is not None
    assert found.interval[0] < 0.5 < found.interval[1]


def test_moves_that_do_not_help_are_told(tmp_path) -> None:  # type: ignore[no-untyped-def]
    folder = RunFolder(tmp_path / "run")
    write_moves(folder, [0.4, -0.6, 0.1])
    assert "training.relocate=false" in (relocation_gain(folder).warning or "")
    empty = relocation_gain(RunFolder(tmp_path / "none"))
    assert (empty.value, empty.n) == (None, 0)
