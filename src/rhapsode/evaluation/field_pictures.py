"""The diagnostics of a field as pictures, one each."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rhapsode.runfolder import RunFolder, write_atomic
from rhapsode.training.distill.diagnostics import Diagnostic
from rhapsode.training.distill.online import OnlineScores

_SCATTERED = 5_000


def draw_diagnostics(
    folder: RunFolder, found: Sequence[Diagnostic], online: Sequence[dict[str, Any]], scores: OnlineScores
) -> list[Path]:
    """Write RUN/field/figures/NAME.png for each diagnostic and for online learning; return the paths."""
    target = folder.field / "figures"
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for one in found:
        figure, axes = _canvas()
        _DRAWN[one.name](axes, one.plot)
        value = "not measured" if one.value is None else f"{one.value:.3g}"
        axes.set_title(f"{one.name}: {value} (bound: {one.bound})" + ("  !" if one.warning else ""), fontsize=10)
        paths.append(_write(figure, target / f"{one.name}.png"))
    figure, axes = _canvas()
    _online(axes, scores)
    axes.set_title("online: " + ", ".join(f"{row['bits_per_byte']['value']:.3f}" for row in online), fontsize=10)
    paths.append(_write(figure, target / "online.png"))
    return paths


def _canvas() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _write(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomic(path, buffer.getvalue())
    return path


def _projection(axes: Any, plot: dict[str, Any]) -> None:
    axes.scatter(plot["before"][:_SCATTERED], plot["after"][:_SCATTERED], s=2)
    axes.axline((0, 0), slope=1, color="gray", linestyle=":")
    axes.set_xlabel("cosine of two contexts before")
    axes.set_ylabel("cosine after projection")


def _coverage(axes: Any, plot: dict[str, Any]) -> None:
    frequency = plot["frequency"]
    # units that never answered stand in a bar of their own, left of all others.
    shown = np.log10(np.maximum(frequency, frequency[frequency > 0].min() / 10 if (frequency > 0).any() else 1e-6))
    axes.hist(shown, bins=40)
    axes.set_xlabel("log10 of the share of contexts that a unit answers")
    axes.set_ylabel("units")


def _divergence(axes: Any, plot: dict[str, Any]) -> None:
    axes.bar([row["rank"] for row in plot["rows"]], [row["kl"] for row in plot["rows"]])
    axes.set_xlabel("rank of what came in the training text")
    axes.set_ylabel("KL to the teacher, nats")


def _coupling(axes: Any, plot: dict[str, Any]) -> None:
    axes.bar(plot["names"], plot["values"])
    axes.set_ylabel("cross-validated ridge R^2 to the teacher's logits")


def _relocation(axes: Any, plot: dict[str, Any]) -> None:
    axes.hist(plot["gains"], bins=30)
    axes.axvline(0, color="black")
    axes.set_xlabel("loss saved on a moved unit's context, less that of its control, nats")
    axes.set_ylabel("moves")


def _waking(axes: Any, plot: dict[str, Any]) -> None:
    axes.plot(np.cumsum(plot["sizes"]), plot["shares"], marker=".")
    axes.set_xlabel("positions of unseen text")
    axes.set_ylabel("share of contexts that reach an idle unit")


_DRAWN = {
    "projection": _projection,
    "coverage": _coverage,
    "divergence": _divergence,
    "coupling": _coupling,
    "relocation": _relocation,
    "waking": _waking,
}


def _online(axes: Any, scores: OnlineScores) -> None:
    pieces = min(50, len(scores.field))
    ways = {"counts, growing": scores.cache, "field, learning": scores.online, "both": scores.both}
    for name, nats in ways.items():
        gains = [part.mean() for part in np.array_split(scores.field - nats, pieces)]
        axes.plot(np.linspace(0, len(scores.field), pieces), gains, label=name, linewidth=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("positions read")
    axes.set_ylabel("nats a token gained over the static field")
    axes.legend()
