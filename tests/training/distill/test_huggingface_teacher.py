"""Tiny models with random weights, written by transformers itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rhapsode.errors import StateError, UserError
from rhapsode.text.huggingface_tokenizer import HuggingFaceTokenizer
from rhapsode.text.shards import TokenArray
from rhapsode.text.tokenizer import load_tokenizer
from rhapsode.training.distill.capture import plan_capture, run_capture
from rhapsode.training.distill.teacher import Teacher, load_teacher
from tiny_runs import make_words

transformers = pytest.importorskip("transformers")
# the package warns about itself, and warnings are errors here.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    from tokenizers import ByteLevelBPETokenizer

    engine = ByteLevelBPETokenizer()
    engine.train_from_iterator([make_words(400)], vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    return str(engine.to_str())


def write_folder(folder: Path, tokenizer_json: str, kind: str, vocab_size: int = 304) -> Path:
    torch.manual_seed(0)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
            )
        )
    else:
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=64)
        )
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("kind", "widths"),
    [
        ("llama", {"ids": 0, "embeddings": 32, "hidden": 64, "qkv": 128, "phases": 16, "metadata": 4}),
        # positions are learnt: there are no phases.
        ("gpt2", {"ids": 0, "embeddings": 32, "hidden": 64, "qkv": 192, "metadata": 4}),
    ],
)
def test_a_folder_is_read_like_a_run(tmp_path: Path, tokenizer_json: str, kind: str, widths: dict[str, int]) -> None:
    teacher = load_teacher(write_folder(tmp_path / "model", tokenizer_json, kind), "cpu")
    assert isinstance(teacher, Teacher)
    assert (teacher.kind, teacher.context) == ("huggingface", 64)
    assert dict(teacher.widths) == widths
    ids = teacher.tokenizer.encode(make_words(80, seed=3))[:120]
    tokens = TokenArray(ids, np.zeros(1, dtype=np.int64), 1)
    plan = plan_capture(teacher, tokens, tmp_path / "c", streams=None, top_k=8, shard_positions=64)
    capture = run_capture(teacher, tokens, plan)
    with torch.inference_mode():
        model: Any = teacher
        output = model._model(torch.from_numpy(ids[:64].astype(np.int64))[None], output_hidden_states=True)
    said = capture.targets(np.array([50]))
    # ids past the tokenizer's are never predicted.
    log_probs = output.logits[0, 50, : teacher.tokenizer.vocab_size].float().log_softmax(-1)
    np.testing.assert_allclose(said.nats[0], -log_probs[int(ids[51])].item(), rtol=1e-4)
    hidden = next(s for s in capture.spec.streams if s.name == "hidden")
    found = capture.features(np.array([50]))[0, hidden.offset : hidden.offset + hidden.width]
    expected = torch.cat([state[0, 50] for state in output.hidden_states[1:]])
    np.testing.assert_allclose(found, expected.numpy(), rtol=2**-10, atol=1e-4)


def test_the_tokenizer_loses_no_byte(tokenizer_json: str, tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(tokenizer_json)
    for text in ["abc déf <|endoftext|> 中文 😀\n\t ", ""]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert int(tokenizer.num_bytes[ids].sum()) == len(text.encode())
        assert tokenizer.bos_id not in ids
    assert tokenizer.decode_bytes(tokenizer.encode(b"ab\xff\xfe")) == b"ab\xff\xfe"
    tokenizer.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("abc").tolist() == tokenizer.encode("abc").tolist()


def test_folders_that_cannot_be_read_are_refused(tmp_path: Path, tokenizer_json: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="must have its weights as safetensors"):
        load_teacher(folder)
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"must have a tokenizer\.json"):
        load_teacher(folder)
    path = folder / "tokenizer.json"
    path.write_text("{")
    with pytest.raises(StateError, match="must hold JSON"):
        load_teacher(folder)
    path.write_text(json.dumps({**json.loads(tokenizer_json), "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(UserError, match="it changes text before it encodes it"):
        load_teacher(folder)
    path.write_text("{}")
    with pytest.raises(UserError, match="must have a byte-level tokenizer"):
        load_teacher(folder)
    path.write_text(tokenizer_json.replace("endoftext", "nothing"))
    with pytest.raises(UserError, match="it has none of"):
        load_teacher(folder)
    path.write_text(tokenizer_json)
    with pytest.raises(StateError, match="must hold a causal language model"):
        load_teacher(folder)


def test_fewer_logits_than_ids_are_refused(tmp_path: Path, tokenizer_json: str) -> None:
    folder = write_folder(tmp_path / "model", tokenizer_json, "gpt2", vocab_size=200)
    with pytest.raises(StateError, match="must have logits for all ids"):
        load_teacher(folder)


def test_a_tokenizer_of_a_model_cannot_be_trained() -> None:
    from rhapsode.text.config import TokenizerConfig

    with pytest.raises(UserError, match="must be one that can be trained"):
        HuggingFaceTokenizer.train([], TokenizerConfig())


def test_without_transformers_the_package_is_named(
    tmp_path: Path, tokenizer_json: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    folder = write_folder(tmp_path / "model", tokenizer_json, "gpt2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'rhapsode\[huggingface\]'"):
        load_teacher(folder)
