"""What `make demo` runs: train on this machine's own Python documentation, look at it, prompt it."""

import argparse
import sys

from rhapsode.cli import run

PROMPT = "The for statement"


def main() -> int:
    """Train the default recipe, generate, and say what to type next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", default="3", help="minutes of training")
    parser.add_argument("--out", default="runs/demo", help="folder of the run; an earlier one is replaced")
    arguments = parser.parse_args()
    out = arguments.out
    commands = [
        ["train", "stdlib", "--minutes", arguments.minutes, "--out", out, "--overwrite"],
        ["generate", out, "--prompt", PROMPT, "--max-new-tokens", "60", "--temperature", "0.5"],
    ]
    for command in commands:
        shown = " ".join(f'"{word}"' if " " in word else word for word in command)
        print(f"\n$ rhapsode {shown}", flush=True)
        code = run(command)
        if code != 0:
            return code
    print(
        f"\nThe loss curve is in {out}/loss.png. Next, in this folder:\n"
        f"  .venv/bin/rhapsode chat {out}\n"
        f"  .venv/bin/rhapsode eval {out}\n"
        f"  .venv/bin/rhapsode train YOUR_FOLDER --minutes 3 --out runs/mine"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
