"""The loss curve as a picture, with the controls as lines across it."""

import io
from typing import Any

from rhapsode.runfolder import RunFolder, write_atomic


def draw_losses(
    folder: RunFolder, metrics: list[dict[str, Any]], controls: dict[str, float], label: str = "validation"
) -> None:
    """Write loss.png: training nats per token above, validation bits per byte (`label`) and the controls below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    seconds = [row["elapsed_s"] for row in metrics]
    above.plot(seconds, [row["train_nats"] for row in metrics], linewidth=0.8, label="training")
    above.axhline(controls["ln_vocab"], color="gray", linestyle=":", label="ln(vocab): guessing")
    above.set_ylabel("nats per token")
    evaluated = [row for row in metrics if "val_bits_per_byte" in row]
    below.plot(
        [row["elapsed_s"] for row in evaluated],
        [row["val_bits_per_byte"] for row in evaluated],
        marker="o",
        label=label,
    )
    below.axhline(controls["unigram_bits_per_byte"], color="gray", linestyle=":", label="unigram")
    below.axhline(controls["kneser_ney_bits_per_byte"], color="black", linestyle="--", label="Kneser-Ney")
    below.set_ylabel("bits per byte")
    below.set_xlabel("seconds of training")
    for axes in (above, below):
        axes.legend()
        axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(folder.loss_picture, buffer.getvalue())
