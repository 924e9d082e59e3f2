"""The optional encoder: its package is not installed here unless somebody wants it."""

import importlib.util
import sys
from pathlib import Path

import pytest

from rhapsode.errors import UserError
from rhapsode.memory.encoders.sentence_transformers import SentenceTransformersEncoder


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"with modules\.json; got"):
        SentenceTransformersEncoder(tmp_path)


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install 'rhapsode\[sentence-transformers\]'"):
        SentenceTransformersEncoder(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
# where its parts live has changed between its versions; the old place still works and warns.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tiny_model_encodes(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import BoW

    SentenceTransformer(modules=[BoW(["alpha", "beta", "gamma"])]).save(str(tmp_path / "model"))
    encoder = SentenceTransformersEncoder(tmp_path / "model")
    rows = encoder.encode(["alpha beta", " ", "gamma"])
    assert rows.shape == (3, encoder.width)
    assert (rows[1] == 0).all()
    encoder.save(tmp_path / "encoder")
    assert SentenceTransformersEncoder.load(tmp_path / "encoder").fingerprint == encoder.fingerprint
    (tmp_path / "model" / "extra.json").write_text("{}")
    with pytest.raises(UserError, match="its files changed"):
        SentenceTransformersEncoder.load(tmp_path / "encoder")
