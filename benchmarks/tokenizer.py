"""How well, how fast and at what cost tokenizers pack text: ours beside tiktoken, tokenizers and sentencepiece.

    python benchmarks/tokenizer.py --wikitext wikitext2-valid.txt [--quick] [--name tokenizers]

Everybody learns from the first 90 % of a text (cut at a line) and packs the rest. tiktoken has no learner and gets the
ranks that `tokenizers` learnt with our BPE's pattern. Each training and each encoder runs in a fresh process, so that
its peak memory is its own (Linux only). Speeds are medians of rounds taken in turn. The file is not called
tokenizers.py, because it would then be what `import tokenizers` finds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _common import write_result
from rhapsode import api
from rhapsode.text import Tokenizer, TokenizerConfig, load_tokenizer, train_tokenizer
from rhapsode.text.bpe_plain import build_plain
from rhapsode.text.pieces import cut_pieces
from rhapsode.text.stdlib import StdlibReader

CAPS = (1024, 4096, 8192, 32_768)
CAP = 4096
THREADS = (1, 2)
LARGE_BYTES = 100_000_000
WIKITEXT = "wikitext-2 validation"
# of 12 million: sentencepiece takes minutes for as many.
LIBRARY_CHARS = 7_000_000
Row = dict[str, Any]
Encode = Callable[[Sequence[str]], int]


def main() -> None:
    """Run every measurement and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wikitext", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="of the models that give bits per byte")
    parser.add_argument("--steps", type=int, default=1500, help="of each model")
    parser.add_argument("--quick", action="store_true", help="small texts and few steps: shows that it works")
    parser.add_argument("--name", default="tokenizers")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, *rest = arguments.measure
        print(json.dumps({**MEASURES[name](*rest), "peak_mb": peak_mb()}))
        return
    if arguments.wikitext is None:
        parser.error("--wikitext must name a text")
    peers = {name: version(name) for name in ("tiktoken", "tokenizers", "sentencepiece")}
    rows: list[Row] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for row in measure_all(Path(folder), arguments):
            print(f"{time.perf_counter() - began:6.0f} s", row, file=sys.stderr, flush=True)
            rows.append(row)
            extra = {"title": "Tokenizers", "peers": peers, "goals": goals(rows), "columns": COLUMNS}
            write_result(arguments.name, rows, quick=arguments.quick, **extra)


def measure_all(work: Path, arguments: argparse.Namespace) -> Iterator[Row]:
    """Pack both texts at every cap; speed, large training and models at one."""
    quick = arguments.quick
    for name, text in ((WIKITEXT, arguments.wikitext.read_text()), ("python library", library()[:LIBRARY_CHARS])):
        stem = work / name.replace("-", " ").split()[0]
        cut = text.rfind("\n", 0, int(len(text) * 0.9) if not quick else 300_000) + 1
        Path(f"{stem}.train").write_text(text[:cut])
        Path(f"{stem}.test").write_text(text[cut:] if not quick else text[cut : cut + 200_000])
        # speed is measured at one cap, on code; sentencepiece takes minutes to learn code at the others.
        for cap in (1024, CAP) if quick else CAPS if name == WIKITEXT else (CAP,):
            base = 0.0
            for kind in LEARNERS:
                row = {"measure": "packing", "text": name, **child("pack", stem, kind, cap)}
                # ours comes first.
                base = base or row["bytes_per_token"]
                yield {**row, "over_bpe": row["bytes_per_token"] / base}
    yield from speeds(work / "python", rounds=2 if quick else 3)
    large = work / "large.train"
    code = library()
    size = 5_000_000 if quick else LARGE_BYTES
    copies = -(-size // len(code))
    large.write_text("".join(code.replace("self", f"self{copy}") for copy in range(copies))[:size])
    Path(f"{work}/large.test").write_text(code[:1_000_000])
    for kind in OURS:
        yield {"measure": "large_training", "text_mb": size / 1e6, **child("pack", work / "large", kind, CAP)}
    (work / "wikitext.train.txt").write_text(Path(f"{work}/wikitext.train").read_text())
    yield from bits_per_byte(work, 20 if quick else arguments.steps, 1 if quick else arguments.seeds)


def library() -> str:
    """Return the source of the standard library, about 12 MB."""
    return "".join(block for raw in StdlibReader(source=True).documents() for block in raw.blocks)


def child(*words: object) -> Row:
    """Measure in a fresh process; the library `tokenizers` learns its number of threads from the environment."""
    threads = str(words[-1]) if words[0] == "speed" else "2"
    environment = {**os.environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, __file__, "--measure", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peak_mb() -> float:
    """Peak memory of this process in megabytes."""
    status = Path("/proc/self/status").read_text()
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6, 1)


# --- learning -----------------------------------------------------------------------------------------------------


def measure_pack(stem: str, kind: str, cap: str) -> Row:
    """Learn, save beside the text, and pack the rest."""
    text = Path(f"{stem}.train").read_text()
    begin_mb = peak_mb()
    begin = time.perf_counter()
    encode = LEARNERS[kind](text, int(cap), stem)
    seconds = time.perf_counter() - begin
    learnt_mb = peak_mb()
    test = Path(f"{stem}.test").read_text()
    row = {"tokenizer": kind, "cap": int(cap), "bytes_per_token": len(test.encode()) / encode([test])}
    return {**row, "train_s": round(seconds, 2), "more_mb": round(learnt_mb - begin_mb, 1)}


def learn_ours(kind: str) -> Callable[[str, int, str], Encode]:
    def learn(text: str, cap: int, stem: str) -> Encode:
        # compiled code is cached on disk; loading it is no part of learning.
        train_tokenizer(iter(["warm up " * 9]), TokenizerConfig(kind=kind, max_vocab_size=260))
        tokenizer = train_tokenizer(iter([text]), TokenizerConfig(kind=kind, max_vocab_size=cap))
        tokenizer.save(f"{stem}.{kind}.{cap}.json")
        return lambda texts: sum(len(tokenizer.encode(text)) for text in texts)

    return learn


def learn_sentencepiece(model: str, across: bool) -> Callable[[str, int, str], Encode]:
    def learn(text: str, cap: int, stem: str) -> Encode:
        import sentencepiece

        prefix = f"{stem}.sp-{model}.{cap}"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.split("\n")),
            model_prefix=prefix,
            vocab_size=cap,
            model_type=model,
            split_by_whitespace=not across,
            byte_fallback=True,
            user_defined_symbols=["\n"],
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            max_sentence_length=1_000_000,
            num_threads=2,
            minloglevel=2,
        )
        loaded = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")
        return lambda texts: sum(len(loaded.encode(text)) for text in texts)

    return learn


OURS = ("ngram", "bpe")
LEARNERS: dict[str, Callable[[str, int, str], Encode]] = {
    "bpe": learn_ours("bpe"),
    "ngram": learn_ours("ngram"),
    "sentencepiece bpe": learn_sentencepiece("bpe", across=False),
    "sentencepiece unigram": learn_sentencepiece("unigram", across=False),
    "sentencepiece unigram, across words": learn_sentencepiece("unigram", across=True),
}


# --- speed --------------------------------------------------------------------------------------------------------


def speeds(stem: Path, rounds: int) -> list[Row]:
    """Encode the same pieces by every encoder, in turn, and take medians."""
    rows = []
    for threads in THREADS:
        found: dict[str, list[float]] = {name: [] for name in ENCODERS}
        for _ in range(rounds):
            for name in ENCODERS:
                found[name].append(child("speed", stem, name, threads)["mb_per_s"])
        medians = {name: statistics.median(values) for name, values in found.items()}
        rows += [
            {"measure": "speed", "encoder": name, "threads": threads, "mb_per_s": value, "rounds": found[name]}
            | {"over_tiktoken": value / medians["tiktoken"]}
            for name, value in medians.items()
        ]
    return rows


def measure_speed(stem: str, name: str, threads: str) -> Row:
    """Megabytes a second over the training text, after a piece to warm up."""
    text = Path(f"{stem}.train").read_text()
    pieces = list(cut_pieces((text,)))
    encode = ENCODERS[name](stem, int(threads))
    encode(pieces[:2])
    begin = time.perf_counter()
    encode(pieces)
    return {"mb_per_s": len(text.encode()) / 1e6 / (time.perf_counter() - begin)}


def threaded(encode: Callable[[str], Any], threads: int) -> Encode:
    """Return what encodes pieces on threads; the encoders leave Python's lock while they work."""

    def run(texts: Sequence[str]) -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(len(ids) for ids in pool.map(encode, texts))

    return run


def encode_ngram(encoding: str) -> Callable[[str, int], Encode]:
    def build(stem: str, threads: int) -> Encode:
        from rhapsode.text.ngram.tokenizer import NgramTokenizer

        loaded = load_tokenizer(f"{stem}.ngram.{CAP}.json")
        assert isinstance(loaded, NgramTokenizer)
        return threaded(NgramTokenizer(loaded.learnt, encoding).encode, threads)

    return build


def encode_tiktoken(stem: str, threads: int) -> Encode:
    """Only tiktoken itself, without what our tokenizer adds."""
    import tiktoken

    ours = load_tokenizer(f"{stem}.bpe.{CAP}.json")
    ranks = {token: i for i, token in enumerate(tokens_of(ours)) if token}
    core = tiktoken.Encoding("peer", pat_str=ours.payload()["pattern"], mergeable_ranks=ranks, special_tokens={})
    return threaded(lambda text: core.encode_to_numpy(text, disallowed_special=()), threads)


def encode_tokenizers(stem: str, threads: int) -> Encode:
    ours = load_tokenizer(f"{stem}.bpe.{CAP}.json")
    library_tokenizer = build_plain(tokens_of(ours), ours.payload()["pattern"])
    return lambda texts: sum(len(done.ids) for done in library_tokenizer.encode_batch_fast(list(texts)))


def encode_sentencepiece(stem: str, threads: int) -> Encode:
    import sentencepiece

    loaded = sentencepiece.SentencePieceProcessor(model_file=f"{stem}.sp-bpe.{CAP}.model")
    return lambda texts: sum(len(ids) for ids in loaded.encode(list(texts), num_threads=threads))


def tokens_of(tokenizer: Tokenizer) -> list[bytes]:
    return [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]


ENCODERS: dict[str, Callable[[str, int], Encode]] = {
    "ngram, shortest": encode_ngram("shortest"),
    "ngram, greedy": encode_ngram("greedy"),
    "tiktoken": encode_tiktoken,
    "tokenizers": encode_tokenizers,
    "sentencepiece bpe": encode_sentencepiece,
}


# --- bits per byte ------------------------------------------------------------------------------------------------


def bits_per_byte(work: Path, steps: int, seeds: int) -> Iterator[Row]:
    """Train one model at one size for the same steps of the same tokens, so for the same operations.

    An n-gram token stands for more text, so its model sees more bytes, and sees the same text more often.
    """
    for seed in range(seeds):
        for kind in OURS:
            settings = {
                "tokenizer": {"kind": kind, "max_vocab_size": CAP},
                "model": {"width": 192, "num_layers": 4, "seq_len": 128},
                "training": {"steps": steps, "seed": seed},
            }
            out = work / f"run-{kind}-{seed}"
            result = api.train(
                [str(work / "wikitext.train.txt")], out=out, recipe="gpt", params="4M", settings=settings
            )
            row = {"measure": "bits_per_byte", "tokenizer": kind, "seed": seed, "vocab_size": result.vocab_size}
            row |= {"bits_per_byte": result.val_bits_per_byte, "steps": result.steps, "tokens": result.tokens}
            yield {**row, "parameters": result.parameters, "seconds": result.seconds}


def goals(rows: Sequence[Row]) -> list[Row]:
    """Say what was wanted and what came, of what has been measured."""

    def first(**wanted: object) -> Row:
        return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), {})

    packed = first(tokenizer="ngram", cap=CAP, text=WIKITEXT).get("over_bpe")
    fast = first(encoder="ngram, shortest", threads=2).get("over_tiktoken")
    large = first(measure="large_training", tokenizer="ngram")
    bits = {kind: [row["bits_per_byte"] for row in rows if is_model(row, kind)] for kind in OURS}
    ratio = statistics.mean(bits["ngram"]) / statistics.mean(bits["bpe"]) if all(bits.values()) else None
    size = f"{large.get('text_mb', 0):.0f} MB"
    found = [
        ("bytes a token over BPE at 4,096 ids, WikiText-2", 1.2, packed, True),
        ("the same, the further goal", 1.3, packed, True),
        ("MB/s over tiktoken on two threads", 1.5, fast, True),
        ("the same, the further goal", 3.0, fast, True),
        (f"seconds to learn from {size}", 10.0, large.get("train_s"), False),
        (f"megabytes of memory to learn from {size}, beside the text", 500, large.get("more_mb"), False),
        ("bits per byte over BPE's at equal operations", 1.0, ratio, False),
    ]
    return [
        {"what": what, "limit": limit, "value": value, "met": value >= limit if more else value <= limit}
        for what, limit, value, more in found
        if value is not None
    ]


def is_model(row: Row, kind: str) -> bool:
    return bool(row["measure"] == "bits_per_byte" and row["tokenizer"] == kind)


MEASURES: dict[str, Callable[..., Row]] = {"pack": measure_pack, "speed": measure_speed}
COLUMNS = {
    "packing": ["text", "cap", "tokenizer", "bytes_per_token", "over_bpe", "train_s", "peak_mb"],
    "speed": ["encoder", "threads", "mb_per_s", "over_tiktoken"],
    "large_training": ["tokenizer", "text_mb", "train_s", "more_mb", "bytes_per_token"],
}


if __name__ == "__main__":
    main()
