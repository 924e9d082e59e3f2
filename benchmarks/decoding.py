"""Exact parallel decoding beside plain decoding: the same ids, and how much sooner.

    python benchmarks/decoding.py RUN [--prompts 1000] [--identity 3000] [--draws 1000000] [--quick]

Prompts of six kinds, a sixth of each: training text, validation text, random words of the training text, code, one
phrase over and over, random ids. Of each prompt the same text is made by `plain` and by `exact`, in turn, the order
changing, at temperature 0 and 0.8; the drafter is kept from prompt to prompt, as `rhapsode.load` keeps it. The speed-up
is the ratio of tokens a second of one prompt. A text loops if less than half of its runs of 8 ids are distinct.

Exact decoding has two sources of speed, which are also measured apart: its compiled pass, and the drafts.

Further: more prompts for identity alone; every phase switched, on fewer prompts; a fresh drafter for every prompt;
prompt lookup of transformers beside its own plain decoding, on GPT-2 of about the run's shape, trained a little on the
same text; and sampled ids of a model that sees two ids, against its distribution after each pair.

Takes about ten minutes on two cores. Writes results/decoding.json.
"""

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from _common import RESULTS, write_result
from rhapsode import api
from rhapsode.generation.compiled import weights
from rhapsode.generation.compiled.decoding import build_exact_decoding
from rhapsode.generation.config import GenerationConfig
from rhapsode.generation.drafting.config import PhaseConfig
from rhapsode.generation.drafting.drafter import Drafter
from rhapsode.generation.drafting.loading import load_drafter
from rhapsode.generation.engine import Generation, generate
from rhapsode.models.config import ModelConfig
from rhapsode.models.decoder import build_decoder
from rhapsode.text.shards import load_token_array

Row = dict[str, Any]
PROMPT_IDS = 48
VARIANTS: dict[str, dict[str, Any]] = {
    "all as shipped": {},
    "context: no lookup": {"lookup": False},
    "positions: no training text": {"training": False},
    "positions: one at a time": {"max_draft": 1},
    "coherent: each source alone": {"coherent": "none"},
    "coherent: viterbi": {"coherent": "viterbi"},
    "sharpen: always 8": {"sharpen": False},
    "refine: off": {"refine": False},
    "compiled pass alone, no drafts": {"lookup": False, "training": False, "refine": False},
}
DRAFTS_ALONE = "drafts alone, passes by PyTorch"
TEXT_IDS = 250
CODE = "def {0}({1}):\n    for {2} in {1}:\n        if {2} is None:\n            return "
GOALS = {"median speed-up, temperature 0, at least": 1.8, "worst group's median speed-up, at least": 0.95}


LOOKUP = "transformers prompt lookup"


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--prompts", type=int, default=1_000)
    parser.add_argument("--identity", type=int, default=3_000, help="prompts compared in all, those timed included")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--ablation-prompts", type=int, default=60, help="for each phase, and for the peer")
    parser.add_argument("--draws", type=int, default=1_000_000)
    parser.add_argument("--peer-steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a minute; figures mean little")
    parser.add_argument("--name", default="decoding", help="write results/NAME.json")
    names = ["speed", "identity", "phases", "peer", "distribution"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.prompts, arguments.identity, arguments.draws = 12, 24, 4_000
        arguments.peer_steps, arguments.new_tokens, arguments.ablation_prompts = 3, 40, 6
    torch.set_num_threads(arguments.threads)
    model = api.load(arguments.run, device="cpu")
    parts = {"speed": speeds, "identity": identity, "phases": ablations, "peer": peer, "distribution": distribution}
    # of a model of the same sizes, what is not measured again stays.
    rows = [row for row in earlier(arguments.name, model) if row["measure"] not in map(measure_of, arguments.only)]
    for name in arguments.only:
        started = time.perf_counter()
        say(f"{name} ...")
        found = parts[name](model, arguments)
        rows += found
        for row in found:
            say(str(row))
        say(f"{name}: {time.perf_counter() - started:.0f} s")
        save(rows, model, arguments)


def measure_of(part: str) -> str:
    return LOOKUP if part == "peer" else part


def about(model: api.Model) -> str:
    return f"a model of {model.decoder.num_parameters():,} parameters with {model.tokenizer.vocab_size} ids"


def earlier(name: str, model: api.Model) -> list[Row]:
    """Return the rows that were stored before."""
    path = RESULTS / f"{name}.json"
    stored = json.loads(path.read_text()) if path.is_file() else {"note": "", "rows": []}
    return list(stored["rows"]) if about(model) in stored["note"] else []


def save(rows: list[Row], model: api.Model, arguments: argparse.Namespace) -> None:
    """Write what is known so far."""
    prompts = max((row["prompts"] for row in rows if row["measure"] == "speed"), default=0)
    write_result(
        arguments.name,
        rows,
        title="Exact parallel decoding",
        note=f"Batch 1, {arguments.threads} threads, {prompts} prompts of {PROMPT_IDS} ids, {arguments.new_tokens} new "
        f"ones, {about(model)}. Speed-up: median over prompts of tokens a second over those of plain decoding of the "
        "same prompt, with the 10th and 90th percentile. Exact decoding is a compiled pass and drafts; among the "
        "phases are rows of each alone.",
        goals=goals_of(rows),
        threads=arguments.threads,
        peers={"transformers": version("transformers")},
    )


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def prompts_of(model: api.Model, count: int, seed: int = 0) -> list[tuple[str, np.ndarray]]:
    """Return prompts of all kinds in turn, with the names of their kinds."""
    rng = np.random.default_rng(seed)
    folder, tokenizer = model.folder.data, model.tokenizer
    validation = np.asarray(load_token_array(folder / "validation").ids).astype(np.int64)
    has_training = (folder / "training").exists()
    training = np.asarray(load_token_array(folder / "training").ids).astype(np.int64) if has_training else validation
    words = tokenizer.decode(training[:20_000]).split()

    def window(ids: np.ndarray) -> np.ndarray:
        start = int(rng.integers(0, len(ids) - PROMPT_IDS))
        return ids[start : start + PROMPT_IDS]

    def pick(number: int) -> list[str]:
        return [words[i] for i in rng.integers(0, len(words), number)]

    makers = {
        "training text": lambda: window(training),
        "validation text": lambda: window(validation),
        "random words": lambda: tokenizer.encode(" ".join(pick(40))).astype(np.int64)[:PROMPT_IDS],
        "code": lambda: tokenizer.encode(CODE.format(*pick(3))).astype(np.int64)[-PROMPT_IDS:],
        "repetition": lambda: tokenizer.encode(" ".join(pick(3)) * 20).astype(np.int64)[:PROMPT_IDS],
        "random ids": lambda: rng.integers(3, tokenizer.vocab_size, PROMPT_IDS),
    }
    if not has_training:
        del makers["training text"]
    names = list(makers)
    return [(name, makers[name]()) for name in (names[i % len(names)] for i in range(count))]


def run(model: api.Model, prompt: np.ndarray, drafter: Drafter | None, **settings: Any) -> Generation:
    """Generate by `plain`, or by `exact` with a drafter."""
    decode = "plain" if drafter is None else "exact"
    config = GenerationConfig(decode=decode, truncate=True, **settings)
    return generate(model.decoder, model.tokenizer, prompt, config, start_with_bos=False, drafter=drafter)


def pairs(
    model: api.Model, prompts: Sequence[tuple[str, np.ndarray]], drafter: Drafter | None, **settings: Any
) -> Iterator[Row]:
    """Yield a row a prompt: both ways in turn, the order changing. Without a drafter, each text has a fresh one."""
    warm(model, drafter, **settings)
    for number, (group, prompt) in enumerate(prompts):
        used = drafter or fresh(model)
        found = {}
        for way in (0, 1) if number % 2 else (1, 0):
            found[way] = run(model, prompt, used if way else None, seed=number, **settings)
        plain, exact = found[0], found[1]
        if number % 100 == 99:
            say(f"  {number + 1} of {len(prompts)} prompts, temperature {settings['temperature']}")
        yield {
            "group": group,
            "same": plain.ids == exact.ids,
            "loops": loops(plain.ids),
            "plain": plain.tokens_per_s,
            "exact": exact.tokens_per_s,
            "ratio": exact.tokens_per_s / plain.tokens_per_s,
            "tokens_per_forward": exact.tokens_per_forward,
            "acceptance": exact.acceptance,
        }


def warm(model: api.Model, drafter: Drafter | None, **settings: Any) -> None:
    """Compile and calibrate, on a text that is not among the prompts."""
    for _ in range(2):
        run(model, np.arange(3, 40), drafter or fresh(model), **settings)


def fresh(model: api.Model) -> Drafter:
    """Return a drafter that shares the index of the training text and remembers nothing else."""
    drafter = Drafter()
    drafter.training, drafter.costs = model.drafter.training, model.drafter.costs
    return drafter


def loops(ids: Sequence[int], size: int = 8) -> bool:
    runs = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
    return len(runs) > size and len(set(runs)) < 0.5 * len(runs)


def summarise(rows: Sequence[Row], **keys: Any) -> Row:
    """Return one row of many prompts."""
    ratios = [row["ratio"] for row in rows]
    accepted = [row["acceptance"] for row in rows if row["acceptance"] is not None]
    low, high = np.percentile(ratios, [10, 90])
    return {
        **keys,
        "prompts": len(rows),
        "identical": sum(row["same"] for row in rows),
        "speed_up": statistics.median(ratios),
        "interval": [float(low), float(high)],
        "tokens_per_forward": statistics.fmean(row["tokens_per_forward"] for row in rows),
        "acceptance": statistics.fmean(accepted) if accepted else None,
        "plain_tokens_per_s": statistics.median(row["plain"] for row in rows),
        "exact_tokens_per_s": statistics.median(row["exact"] for row in rows),
    }


def speeds(model: api.Model, arguments: argparse.Namespace) -> list[Row]:
    """Measure all prompts at both temperatures: together, by kind of prompt, and by whether the text loops."""
    prompts, rows = prompts_of(model, arguments.prompts), []
    for temperature in (0.0, 0.8):
        found = list(pairs(model, prompts, model.drafter, temperature=temperature, max_new_tokens=arguments.new_tokens))
        groups = defaultdict(list)
        for row in found:
            groups["looping" if row["loops"] else "not looping"].append(row)
            groups[row["group"]].append(row)
        rows.append(summarise(found, measure="speed", temperature=temperature, group="all"))
        rows += [
            summarise(some, measure="speed", temperature=temperature, group=name)
            for name, some in sorted(groups.items())
        ]
    return rows


def identity(model: api.Model, arguments: argparse.Namespace) -> list[Row]:
    """Compare the ids of further prompts, at both temperatures, with nothing timed."""
    count = max(0, arguments.identity - arguments.prompts)
    rows = []
    for temperature in (0.0, 0.8):
        same = 0
        for number, (_, prompt) in enumerate(prompts_of(model, count, seed=1)):
            settings = {"temperature": temperature, "max_new_tokens": 32, "seed": number}
            same += run(model, prompt, None, **settings).ids == run(model, prompt, model.drafter, **settings).ids
            if number % 500 == 499:
                say(f"  {same} of {number + 1} identical, temperature {temperature}")
        rows.append({"measure": "identity", "temperature": temperature, "prompts": count, "identical": same})
    return rows


def ablations(model: api.Model, arguments: argparse.Namespace) -> list[Row]:
    """Switch each phase, on fewer prompts; forget between prompts; and draft without the compiled pass."""
    prompts = prompts_of(model, arguments.ablation_prompts, seed=2)
    rows = []
    for temperature in (0.0, 0.8):
        settings = {"temperature": temperature, "max_new_tokens": arguments.new_tokens}
        for name, phases in VARIANTS.items():
            drafter = load_drafter(model.folder, PhaseConfig(**phases))
            found = list(pairs(model, prompts, drafter, **settings))
            rows.append(summarise(found, measure="phases", temperature=temperature, phases=name))
            say(f"  {name}, temperature {temperature}: {rows[-1]['speed_up']:.2f}")
        found = list(pairs(model, prompts, None, **settings))
        rows.append(summarise(found, measure="phases", temperature=temperature, phases="nothing kept between prompts"))
        drafter = load_drafter(model.folder)
        most, weights.MAX_NUMBERS = weights.MAX_NUMBERS, 0
        found = list(pairs(model, prompts, drafter, **settings))
        weights.MAX_NUMBERS = most
        rows.append(summarise(found, measure="phases", temperature=temperature, phases=DRAFTS_ALONE))
    return rows


def peer(model: api.Model, arguments: argparse.Namespace) -> list[Row]:
    """Measure prompt lookup of transformers against its own plain decoding."""
    from _gpt2 import build_adamw, build_gpt2

    config, folder = model.recipe.model, model.folder.data
    name = "training" if (folder / "training").exists() else "validation"
    ids = torch.from_numpy(np.asarray(load_token_array(folder / name).ids).astype(np.int64))
    torch.manual_seed(0)
    gpt2 = build_gpt2(
        model.tokenizer.vocab_size, config.num_layers or 4, config.num_heads or 4, config.width or 256, config.seq_len
    )
    optimizer = build_adamw(gpt2, 2e-3, (0.9, 0.95), 0.1)
    for _ in range(arguments.peer_steps):
        starts = torch.randint(0, len(ids) - 129, (16,))
        batch = torch.stack([ids[start : start + 128] for start in starts.tolist()])
        gpt2(batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    gpt2.eval()
    gpt2.generation_config.pad_token_id = 0
    found = []
    for group, prompt in prompts_of(model, arguments.ablation_prompts, seed=2):
        results = {}
        for way in (None, 10):
            started = time.perf_counter()
            out = gpt2.generate(
                torch.from_numpy(prompt)[None],
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                max_new_tokens=arguments.new_tokens,
                do_sample=False,
                use_cache=True,
                prompt_lookup_num_tokens=way,
            )[0, len(prompt) :].tolist()
            results[way] = out, len(out) / (time.perf_counter() - started)
        (plain, plain_speed), (lookup, lookup_speed) = results[None], results[10]
        found.append(
            {
                "group": group,
                "same": plain == lookup,
                "loops": loops(plain),
                "plain": plain_speed,
                "exact": lookup_speed,
                "ratio": lookup_speed / plain_speed,
                "tokens_per_forward": float("nan"),
                "acceptance": None,
            }
        )
    rows = []
    for name, some in {
        "all": found,
        "looping": [row for row in found if row["loops"]],
        "not looping": [row for row in found if not row["loops"]],
    }.items():
        if some:
            row = summarise(some, measure=LOOKUP, temperature=0.0, group=name)
            del row["tokens_per_forward"], row["acceptance"]
            rows.append(row)
    return rows


def distribution(model: api.Model, arguments: argparse.Namespace) -> list[Row]:
    """Sample a small model that sees two ids, and test what came after each pair by Pearson's chi-squared."""
    vocab_size, rows = 10, []
    shape = {"vocab_size": vocab_size, "width": 16, "num_layers": 1, "num_heads": 1, "seq_len": 2, "embed": "table"}
    small = build_decoder(ModelConfig.model_validate(shape), 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.normal_(std=0.4, generator=generator)
    for settings in ({"top_k": 0, "top_p": 1.0}, {"top_k": 5, "top_p": 0.9}):
        config = GenerationConfig(temperature=0.8, max_new_tokens=TEXT_IDS, **settings)
        drafter, texts = Drafter(), []
        passes = drafted = accepted = 0
        for seed in range(-(-arguments.draws // (2 * TEXT_IDS))):
            generator = torch.Generator().manual_seed(seed)
            decoding = build_exact_decoding(small, [3, 4], config, generator, drafter=drafter)
            ids = [3, 4]
            while len(ids) < TEXT_IDS + 2:
                ids += decoding.step()
            texts.append(ids)
            passes, drafted = passes + decoding.passes, drafted + decoding.drafted
            accepted += decoding.accepted
            if seed % 500 == 499:
                say(f"  {(seed + 1) * TEXT_IDS:,} ids, {settings}")
        draws = sum(len(ids) - 2 for ids in texts)
        statistic, freedom = chi_squared(small, texts, config)
        # Wilson and Hilferty 1931: the cube root of chi-squared over its degrees is nearly normal.
        spread = (2 / (9 * freedom)) ** 0.5
        deviations = ((statistic / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / spread
        rows.append(
            {
                "measure": "distribution",
                "filters": str(settings),
                "draws": draws,
                "chi_squared": statistic,
                "degrees_of_freedom": freedom,
                "deviations": deviations,
                "tokens_per_forward": draws / passes,
                "acceptance": accepted / max(1, drafted),
            }
        )
    return rows


def chi_squared(small: Any, texts: list[list[int]], config: GenerationConfig) -> tuple[float, int]:
    """Return the statistic over all pairs of ids, and its degrees of freedom; cells expected below 5 are left out."""
    from rhapsode.generation.sampling import filter_logits

    size = small.config.vocab_size
    counts = np.zeros((size, size, size))
    for ids in map(np.array, texts):
        np.add.at(counts, (ids[:-2], ids[1:-1], ids[2:]), 1)
    statistic, freedom = 0.0, 0
    for first in range(2, size):
        for second in range(2, size):
            found = counts[first, second]
            with torch.inference_mode():
                logits = small(torch.tensor([[first, second]]))[0][0, -1, 2:]
            ranked, places = filter_logits(logits, config)
            expected = np.zeros(size)
            expected[(np.arange(size - 2) if places is None else places.numpy()) + 2] = ranked.softmax(-1).numpy()
            if (found[expected == 0] > 0).any():
                raise AssertionError("an id was drawn that the filters exclude")
            expected *= found.sum()
            cells = expected >= 5
            if cells.sum() > 1 and cells.sum() == (expected > 0).sum():
                statistic += float(((found - expected)[cells] ** 2 / expected[cells]).sum())
                freedom += int(cells.sum()) - 1
    return statistic, max(1, freedom)


def goals_of(rows: Sequence[Row]) -> list[Row]:
    """Compare with the goals."""
    speed = [row for row in rows if row["measure"] == "speed"]
    if not speed:
        return []
    greedy = next(row for row in speed if row["group"] == "all" and row["temperature"] == 0)
    worst = min((row for row in speed if row["group"] != "all"), key=lambda row: row["speed_up"])
    compared = sum(row["prompts"] for row in rows if row["measure"] == "identity") + sum(
        row["prompts"] for row in speed if row["group"] == "all"
    )
    same = sum(row["identical"] for row in rows if row["measure"] == "identity") + sum(
        row["identical"] for row in speed if row["group"] == "all"
    )
    beside = next((row["speed_up"] for row in rows if row["measure"] == LOOKUP), None)
    median, lowest = GOALS
    return [
        {"what": f"identical texts of {compared:,}", "value": same, "limit": compared, "met": same == compared},
        {
            "what": median,
            "value": greedy["speed_up"],
            "limit": GOALS[median],
            "met": greedy["speed_up"] >= GOALS[median],
            "beside": f"{LOOKUP} {beside:.2f}" if beside is not None else "",
        },
        {
            "what": lowest,
            "value": worst["speed_up"],
            "limit": GOALS[lowest],
            "met": worst["speed_up"] >= GOALS[lowest],
            "beside": f"{worst['group']} at temperature {worst['temperature']}",
        },
    ]


if __name__ == "__main__":
    main()
