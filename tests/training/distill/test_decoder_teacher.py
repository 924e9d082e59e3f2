from pathlib import Path

import pytest
import torch

from rhapsode.errors import UserError
from rhapsode.runfolder import RunFolder, read_json, write_json
from rhapsode.text.bytes_tokenizer import BytesTokenizer
from rhapsode.text.chars import CharsTokenizer
from rhapsode.training.distill.decoder_teacher import DecoderTeacher
from rhapsode.training.distill.teacher import Teacher, check_same_tokenizer, load_teacher


def make_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 259, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_it_reads_every_stream_at_every_position(teacher: DecoderTeacher) -> None:
    assert isinstance(teacher, Teacher)
    reading = teacher.read(make_ids(3, 16))
    model = teacher._decoder.config
    assert model.width is not None
    assert model.num_layers is not None
    assert model.num_heads is not None
    widths = {name: stream.shape for name, stream in reading.streams.items()}
    assert widths == {
        "embeddings": (3, 16, model.width),
        # each layer, and what the head reads.
        "hidden": (3, 16, (model.num_layers + 1) * model.width),
        "qkv": (3, 16, model.num_layers * 3 * model.width),
        "phases": (3, 16, model.width // model.num_heads),
    }
    assert reading.log_probs.shape == (3, 16, 259)
    torch.testing.assert_close(reading.log_probs.exp().sum(-1), torch.ones(3, 16))
    assert dict(teacher.widths) == {"ids": 0, **{n: s[-1] for n, s in widths.items()}, "metadata": 4}


def test_what_it_reads_is_what_the_model_computes(teacher: DecoderTeacher) -> None:
    ids = make_ids(2, 12, seed=1)
    reading = teacher.read(ids)
    with torch.inference_mode():
        logits, _ = teacher._decoder(ids)
        hidden, _ = teacher._decoder.hidden(ids)
        embedded = teacher._decoder.embedder(ids, ids.new_zeros(2, teacher._decoder.embedder.context), None, None)
    torch.testing.assert_close(reading.log_probs, logits.log_softmax(-1))
    width = hidden.shape[-1]
    torch.testing.assert_close(reading.streams["hidden"][..., -width:], hidden)
    torch.testing.assert_close(reading.streams["embeddings"], embedded)
    # the last of the hooks are gone.
    assert not any(module._forward_hooks for module in teacher._decoder.modules())


def test_it_is_causal(teacher: DecoderTeacher) -> None:
    ids = make_ids(1, 16, seed=2)
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % 259
    one, other = teacher.read(ids), teacher.read(changed)
    for name in one.streams:
        torch.testing.assert_close(one.streams[name][:, :-1], other.streams[name][:, :-1])


def test_the_fingerprint_follows_the_weights(teacher: DecoderTeacher, teacher_run: Path, tmp_path: Path) -> None:
    assert load_teacher(teacher_run).fingerprint == teacher.fingerprint
    from tiny_runs import train_tiny, write_texts

    train_tiny(write_texts(tmp_path / "texts"), tmp_path / "other")
    assert load_teacher(tmp_path / "other").fingerprint != teacher.fingerprint


def test_a_distilled_run_is_no_teacher(teacher_run: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    write_json(run.run, {**read_json(RunFolder(teacher_run).run), "kind": "field"})
    with pytest.raises(UserError, match="must be a run of rhapsode train"):
        DecoderTeacher.load(run.path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"which has neither run.json nor config.json"):
        load_teacher(tmp_path)


def test_text_of_another_tokenizer_is_refused() -> None:
    check_same_tokenizer(BytesTokenizer(), BytesTokenizer())
    with pytest.raises(UserError, match="must be encoded by the teacher's tokenizer"):
        check_same_tokenizer(BytesTokenizer(), CharsTokenizer("é"))
