"""Live progress of a training on standard error."""

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rhapsode.training.loop import Report
from rhapsode.training.run import Observer

# without a terminal, a line of progress this often.
PLAIN_SECONDS = 15.0


class TrainingProgress:
    """A bar with loss, bits per byte, tokens/s and time left; plain lines without a terminal. Open it with `with`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task("train", total=1.0, step=0, figures="", visible=False)
        self._bits = math.nan
        self._last_line = time.monotonic()
        self._started = False

    def observer(self) -> Observer:
        """Return what the training reports to."""
        return Observer(say=self._say, report=self._report)

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._started:
            self._bar.stop()

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    def _report(self, line: Report) -> None:
        if line.val_bits_per_byte is not None:
            self._bits = line.val_bits_per_byte
        left = line.elapsed_s * (1 - line.share) / line.share if line.share > 0 else math.nan
        figures = f"loss {line.train_nats:.3f}  {line.tokens_per_s:,.0f} tokens/s  {_clock(left)} left"
        if not math.isnan(self._bits):
            figures = f"{self._bits:.3f} bits per byte  {figures}"
        if self._console.is_terminal:
            if not self._started:
                self._bar.start()
                self._started = True
            self._bar.update(self._task, completed=line.share, step=line.step, figures=figures, visible=True)
        elif line.val_nats is not None or time.monotonic() - self._last_line > PLAIN_SECONDS:
            self._last_line = time.monotonic()
            self._say(f"step {line.step}  {figures}")


def _clock(seconds: float) -> str:
    if math.isnan(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
