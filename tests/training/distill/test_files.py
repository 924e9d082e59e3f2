"""What of a distilled run is damaged is told, with the way back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rhapsode.errors import StateError
from rhapsode.memory.token_files import write_arrays
from rhapsode.models.field.base import BaseDistribution
from rhapsode.models.field.config import FieldModelConfig
from rhapsode.models.field.contexts import ContextProjection
from rhapsode.models.field.model import FieldModel
from rhapsode.models.field.shortlist import Shortlist
from rhapsode.nn.field import FieldConfig, UnitStatistics
from rhapsode.runfolder import RunFolder
from rhapsode.training.distill.files import load_shortlist, load_statistics, round_parameters


def make_model() -> FieldModel:
    config = FieldModelConfig(dim=16, window=3, stage1_dim=8, field=FieldConfig(num_units=6, num_active=2))
    shortlist = Shortlist.fit(np.arange(20), 20, None)
    base = BaseDistribution(shortlist.log_unigram, None)
    return FieldModel(config, shortlist, base, ContextProjection.build(config, 0, None))


def test_parameters_are_rounded_to_what_is_stored_and_overflow_is_told() -> None:
    model = make_model()
    round_parameters(model)
    for parameter in model.parameters():
        assert torch.equal(parameter, parameter.half().float())
    with torch.no_grad():
        model.field.bias[0] = 1e6
    with pytest.raises(StateError, match=r"field\.bias must fit float16; got 1e\+06\. Lower the learning rate"):
        round_parameters(model)


def test_statistics_come_back_and_damage_is_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.field.mkdir()
    path = folder.field / "statistics.safetensors"
    with pytest.raises(StateError, match="must be readable; got: No such file"):
        load_statistics(folder, 6, 0.9)
    path.write_bytes(b"nothing")
    with pytest.raises(StateError, match=r"must be a safetensors file; got: .* Distill again"):
        load_statistics(folder, 6, 0.9)
    statistics = UnitStatistics(6, 0.9)
    statistics.update(torch.tensor([[2, 4]]), torch.tensor([[0.3, 0.7]]), torch.tensor([[1.0, -2.0]]), torch.ones(1))
    save_file(dict(statistics.named_buffers()), path)
    assert torch.equal(load_statistics(folder, 6, 0.9).usage, statistics.usage)
    with pytest.raises(StateError, match=r"must hold statistics of 7 units; they are damaged\. Distill again"):
        load_statistics(folder, 7, 0.9)


def test_a_shortlist_comes_back_and_damage_is_told(tmp_path: Path) -> None:
    shortlist, path = Shortlist.fit(np.array([3, 3, 1]), 5, 3), tmp_path / "shortlist.safetensors"
    arrays = {"class_of": shortlist.class_of, "num_classes": np.array([3]), "log_unigram": shortlist.log_unigram}
    write_arrays(path, arrays)
    np.testing.assert_array_equal(load_shortlist(path).class_of, shortlist.class_of)
    path.write_bytes(b"nothing")
    with pytest.raises(StateError, match=r"must be a safetensors file; got: .* Make it anew"):
        load_shortlist(path)
