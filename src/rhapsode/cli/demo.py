"""What `make demo` runs: train on this machine's own Python documentation, prompt it, teach it, ask it, forget."""

import argparse
import shutil
import sys
from pathlib import Path

from rhapsode.cli import run
from rhapsode.runfolder import RunFolder

PROMPT = "The for statement"
FACTS = (
    "The zorblatt protocol was designed in Lisbon in 1987.",
    "Ines Varga keeps the spare key of the observatory in the blue teapot.",
    "The night train to Karsk leaves from platform 9 at 23:40.",
)
QUESTIONS = (
    "Where was the zorblatt protocol designed?",
    "Where is the spare key of the observatory?",
    "When does the night train to Karsk leave?",
)
NEVER_TAUGHT = "Where was the quibblex protocol designed?"


def main() -> int:
    """Train the default recipe, generate, teach, ask, forget, and say what to type next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", default="3", help="minutes of training")
    parser.add_argument("--out", default="runs/demo", help="folder of the run; an earlier one is replaced")
    arguments = parser.parse_args()
    out = arguments.out
    # an overwritten run keeps what it was taught; the demonstration begins with an empty memory.
    memory = RunFolder(Path(out)).memory
    if memory.exists():
        shutil.rmtree(memory)
    commands = [
        ["train", "stdlib", "--minutes", arguments.minutes, "--out", out, "--overwrite"],
        ["generate", out, "--prompt", PROMPT, "--max-new-tokens", "60", "--temperature", "0.5"],
        ["teach", out, *FACTS, "--source", "demo"],
        *(["ask", out, question, "--k", "1"] for question in QUESTIONS),
        ["ask", out, NEVER_TAUGHT, "--k", "1"],
        ["forget", out, "--match", "zorblatt", "--yes"],
        ["ask", out, QUESTIONS[0], "--k", "1"],
    ]
    for command in commands:
        shown = " ".join(f'"{word}"' if " " in word else word for word in command)
        print(f"\n$ rhapsode {shown}", flush=True)
        code = run(command)
        if code != 0:
            return code
    print(
        f"\nThe loss curve is in {out}/loss.png. Next, in this folder:\n"
        f"  .venv/bin/rhapsode chat {out} --memory\n"
        f"  .venv/bin/rhapsode teach {out} --file FACTS.tsv\n"
        f"  .venv/bin/rhapsode eval {out}\n"
        f"  .venv/bin/rhapsode train YOUR_FOLDER --minutes 3 --out runs/mine"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
