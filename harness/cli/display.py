"""How a run, or a measurement, is shown while it goes on: a bar in a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from harness import results
from harness.cli.output import escape
from harness.cli.scenarios import reasons, result_words
from harness.config import BenchConfig

__all__ = ["BenchDisplay", "RunDisplay"]


@dataclass
class _Run:
    """What is shown of one run: the bars of its stage and of shorter work, and the stage's epochs."""

    backbone: str
    stage: TaskID
    step: TaskID
    epochs: int = 0


class RunDisplay:
    """Shows the events of runs, one after another or side by side. A context manager."""

    def __init__(self, console: Console, runs: int) -> None:
        self._console = console
        self._total = runs
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._runs: dict[int, _Run] = {}
        self._last = -1  # run that was announced
        self._several = False  # runs are side by side

    def __enter__(self) -> RunDisplay:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, index: int, run: results.Run, event: results.Event | None) -> None:
        """Show one event of the run at ``index``; None announces the run."""
        if event is None:
            stage, step = (self._bars.add_task("", visible=False, figures="") for _ in range(2))
            self._runs[index], self._last = _Run(run.backbone, stage, step), index
            self._console.print(f"[bold]{escape(run.backbone)}[/] ({index + 1}/{self._total})", soft_wrap=True)
            return
        self._several = self._several or index != self._last
        shown = self._runs[index]
        match event:
            case results.Progress():
                self._advance(shown, event)
            case results.Note():
                self._print(shown, escape(event.text))
            case results.RunSetup():
                weights = event.weights
                digest = f", sha256 {weights.sha256[:8]}" if weights.sha256 else ""
                self._print(
                    shown,
                    f"{_millions(event.parameters)} parameters, {weights.kind} weights "
                    f"({escape(weights.origin)}{digest}), {escape(event.environment.device_name)}",
                )
            case results.StageStarted():
                shown.epochs = event.epochs
                self._bars.reset(shown.stage, visible=False)
            case results.EpochResult():
                if not self._console.is_terminal:
                    self._print(
                        shown,
                        f"{event.stage} {event.epoch}/{shown.epochs}: loss {event.train_loss:.4f}, "
                        f"val loss {event.val_loss:.4f}, val accuracy {event.val_accuracy:.2%}, "
                        f"{event.images_per_second:.0f} images/s, {_seconds(event.seconds)} s",
                    )
            case results.StageResult():
                self._bars.update(shown.stage, visible=False)
                self._print(shown, f"{event.stage}: {_seconds(event.seconds)} s, epoch {event.tested_epoch} tested")
            case results.Failure():
                for task in (shown.stage, shown.step):
                    self._bars.update(task, visible=False)
                self._print(shown, f"[bold red]failed:[/] {escape(event.message)}")
                if event.traceback:
                    self._console.print(escape(event.traceback.rstrip()), soft_wrap=True)
            case results.Measurement() | results.Turn():
                pass

    def _advance(self, shown: _Run, event: results.Progress) -> None:
        if event.epoch is None:
            text = f"  {shown.backbone}: {event.phase}"
            visible = event.done < event.total
            self._bars.update(
                shown.step, description=escape(text), completed=event.done, total=event.total, visible=visible
            )
            return
        loss = "" if event.loss is None else f"loss {event.loss:.3f}  "  # none while features are computed
        self._bars.update(
            shown.stage,
            description=escape(f"  {shown.backbone}: {event.phase} {event.epoch}/{shown.epochs}"),
            completed=event.done,
            total=event.total,
            visible=True,
            figures=f"{loss}{event.images_per_second:.0f} images/s",
        )

    def _print(self, shown: _Run, markup: str) -> None:
        name = f"{escape(shown.backbone)}: " if self._several else ""
        self._console.print(f"  {name}{markup}", soft_wrap=True)


def _seconds(seconds: float) -> str:
    """Seconds, with a digit behind the point where they are few."""
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}"


class BenchDisplay:
    """Shows one measurement after another. A context manager."""

    def __init__(self, console: Console, configs: Sequence[BenchConfig]) -> None:
        self._console = console
        self._names = [config.name for config in configs]
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("", total=len(configs))

    def __enter__(self) -> BenchDisplay:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._bars.stop()

    def show(self, index: int, event: results.Event | None) -> None:
        """Show one event of the measurement at ``index``; None announces it."""
        name = escape(self._names[index])
        match event:
            case None:
                self._bars.update(self._all, completed=index, description=name)
            case results.Progress():
                self._bars.update(self._all, description=f"{name}: {escape(event.phase)}")
            case results.Note():
                self._print(f"  {escape(event.text)}")
            case results.Failure() if event.traceback:
                self._print(escape(event.traceback.rstrip()))
            case _:
                pass

    def done(self, record: results.MeasurementSet) -> None:
        """Show what was measured."""
        latency = record.measurement("latency")
        if record.status != "completed" or latency is None:
            self._print(f"{escape(record.name)}: [bold red]{record.status}:[/] {escape(record.message)}")
            return
        if record.measurement("loadgen_result"):
            self._print(f"{escape(record.name)}: {escape(result_words(record))}")
            for reason in reasons(record):
                self._print(f"  [yellow]not valid:[/] {escape(reason)}")
        else:
            median = float(np.median(latency.samples))
            speed = (latency.batch_size or 1) / median
            self._print(f"{escape(record.name)}: {1e3 * median:.4g} ms, {speed:.4g} images/s")
        for flag in latency.details["flags"]:
            self._print(f"  [yellow]spoilt:[/] {escape(flag)}")

    def _print(self, markup: str) -> None:
        self._console.print(markup, soft_wrap=True)


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 100_000 else f"{number:,}"
