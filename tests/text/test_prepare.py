"""Preparing gives the ids of encoding document by document, whatever the number of workers."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rhapsode.errors import StateError, UserError
from rhapsode.text.assignment import PARTS
from rhapsode.text.bytes_tokenizer import BytesTokenizer
from rhapsode.text.config import DataConfig
from rhapsode.text.pieces import PIECE_CHARS
from rhapsode.text.prepare import encode_sources, encode_split, prepare
from rhapsode.text.readers import Document
from rhapsode.text.shards import Corpus, TokenArray, is_prepared, load_corpus
from rhapsode.text.split import TextSplit, open_sources, split_documents
from rhapsode.text.tokenizer import Tokenizer


def make_documents(seed: int = 0) -> list[Document]:
    """Many short documents, and one that is cut into pieces."""
    rng = random.Random(seed)
    sizes = [rng.randrange(1, 3_000) for _ in range(80)] + [5 * PIECE_CHARS]
    return [Document(f"{i}", "".join(rng.choices("aeinst é中.\n'", k=size))) for i, size in enumerate(sizes)]


def plain(split: TextSplit, tokenizer: Tokenizer, part: str) -> tuple[list[int], list[int]]:
    """Encode a part in the plain way: ids and document starts."""
    ids: list[int] = []
    starts = []
    for stream in split.streams(part):  # type: ignore[arg-type]
        starts.append(len(ids))
        begin = [tokenizer.bos_id] if stream.begins else []
        end = [tokenizer.eos_id] if stream.ends else []
        ids += [*begin, *tokenizer.encode("".join(stream.blocks)).tolist(), *end]
    return ids, starts


def arrays(corpus: Corpus) -> dict[str, TokenArray]:
    return {part: getattr(corpus, part) for part in PARTS}


@pytest.mark.parametrize("by_position", [False, True])
def test_ids_are_those_of_each_document(any_tokenizer: Tokenizer, by_position: bool, tmp_path: Path) -> None:
    documents = make_documents()[-1:] if by_position else make_documents()
    split = split_documents(documents, DataConfig())
    corpora = [encode_split(split, any_tokenizer, workers=1), prepare(split, any_tokenizer, tmp_path / "out")]
    corpora.append(load_corpus(tmp_path / "out"))
    for part in PARTS:
        ids, starts = plain(split, any_tokenizer, part)
        for corpus in corpora:
            tokens = arrays(corpus)[part]
            assert tokens.ids.tolist() == ids
            assert tokens.doc_starts.tolist() == starts
            assert tokens.num_bytes == split.num_bytes[part] == any_tokenizer.num_bytes[tokens.ids].sum()
    for corpus in corpora:
        assert corpus.tokenizer.fingerprint == any_tokenizer.fingerprint
        assert corpus.data_hash == split.data_hash
        assert corpus.info == corpora[0].info
        assert corpus.info["tokenizer"]["vocab_size"] == any_tokenizer.vocab_size


def test_a_split_document_begins_and_ends_once(bpe: Tokenizer) -> None:
    corpus = encode_split(split_documents([Document("x", "some words é " * 500)], DataConfig()), bpe)
    specials = [np.isin(array.ids, [1, 2]).nonzero()[0].tolist() for array in arrays(corpus).values()]
    assert specials == [[], [len(corpus.validation) - 1], [0]]
    assert corpus.validation.ids[-1] == bpe.eos_id
    text = b"".join(bpe.decode_bytes(array.ids) for array in (corpus.train, corpus.calibration, corpus.validation))
    assert text.decode() == "some words é " * 500


def test_files_do_not_depend_on_workers(bpe: Tokenizer, tmp_path: Path) -> None:
    split = split_documents(make_documents(), DataConfig())
    for workers in (1, 2, 5):
        prepare(split, bpe, tmp_path / str(workers), workers=workers)
    names = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*.*"))
    assert len(names) == 11
    for name in names:
        assert len({(tmp_path / workers / name).read_bytes() for workers in ("1", "2", "5")}) == 1


def test_sources_without_a_split(any_tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = [document.text for document in make_documents()]
    for i, text in enumerate(["", *texts]):
        (tmp_path / f"{i:03}.txt").write_bytes(text.encode())
    tokens = encode_sources([str(tmp_path)], any_tokenizer)
    expected = [[1, *any_tokenizer.encode(text).tolist(), 2] for text in texts]
    assert tokens.ids.tolist() == [i for ids in expected for i in ids]
    assert tokens.doc_starts.tolist() == np.cumsum([0] + [len(ids) for ids in expected[:-1]]).tolist()
    assert tokens.num_bytes == len("".join(texts).encode())
    with pytest.raises(UserError, match=r"SOURCE must hold text; got .*000\.txt, which is empty"):
        encode_sources([f"{tmp_path}/000.txt"], any_tokenizer)


def test_progress_ends_at_the_total(bpe: Tokenizer, tmp_path: Path) -> None:
    split = split_documents(make_documents(), DataConfig())
    for run in (encode_split, lambda *args: prepare(args[0], args[1], tmp_path / "out", args[2])):
        seen: list[tuple[int, int]] = []
        run(split, bpe, lambda done, total, seen=seen: seen.append((done, total)))
        total = sum(split.num_bytes.values())
        assert seen[-1] == (total, total)
        assert seen == sorted(seen)
        assert len(seen) > 3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to tell the peak of memory")
def test_memory_is_flat(tmp_path: Path) -> None:
    code = """
import sys
from rhapsode.text import DataConfig, TokenizerConfig, open_sources, train_tokenizer
from rhapsode.text.prepare import prepare
tokenizer = train_tokenizer(iter(["é"]), TokenizerConfig(kind="chars"))
prepare(open_sources([sys.argv[1]], DataConfig()), tokenizer, sys.argv[2])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    peaks_kb = []
    for name, size in (("small", 4_000_000), ("large", 40_000_000)):
        path = tmp_path / f"{name}.txt"
        path.write_text("some words and an é\n" * (size // 20))
        command = [sys.executable, "-c", code, str(path), str(tmp_path / name)]
        peaks_kb.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    # one more block or piece in flight may be alive; the text itself would be 36 MB, its ids 72 MB.
    assert peaks_kb[1] - peaks_kb[0] < 16_000


def test_the_folder_must_be_free(tmp_path: Path) -> None:
    split = split_documents(make_documents()[:20], DataConfig())
    prepare(split, BytesTokenizer(), tmp_path / "out")
    with pytest.raises(UserError, match=r"--out must name a new folder; got .*out, which is prepared already"):
        prepare(split, BytesTokenizer(), tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"--out must name a new or empty folder; got .*mine, which holds notes\.txt"):
        prepare(split, BytesTokenizer(), tmp_path / "mine")
    with pytest.raises(UserError, match=r"--out must name a writable folder; got .*notes\.txt/x: Not a directory"):
        prepare(split, BytesTokenizer(), tmp_path / "mine" / "notes.txt" / "x")


def test_workers_must_be_positive(tmp_path: Path) -> None:
    split = split_documents(make_documents()[:20], DataConfig())
    with pytest.raises(UserError, match="--workers must be at least 1; got 0"):
        prepare(split, BytesTokenizer(), tmp_path / "out", workers=0)
    with pytest.raises(UserError, match="--workers must be at least 1; got -1"):
        encode_split(split, BytesTokenizer(), workers=-1)


def test_a_failure_leaves_a_folder_that_can_be_used_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some words " * 100_000)
    split = open_sources([str(path)], DataConfig())
    path.write_text("other words " * 100_000)
    with pytest.raises(StateError, match="must stay as it is while it is read"):
        prepare(split, BytesTokenizer(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    prepare(open_sources([str(path)], DataConfig()), BytesTokenizer(), tmp_path / "out")
    assert is_prepared(tmp_path / "out")


def test_an_interruption_leaves_a_folder_that_is_not_prepared(tmp_path: Path) -> None:
    split = split_documents(make_documents(), DataConfig())
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        assert (out / "train" / "ids.bin").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(split, BytesTokenizer(), out, stop)
    assert not is_prepared(out)
    # and a folder that a killed process left behind is taken over.
    (out / "train").mkdir(parents=True)
    (out / "train" / "ids.bin").write_bytes(b"half")
    prepare(split, BytesTokenizer(), out)
    load_corpus(out)
