"""Weak and strong scaling of stages: efficiency, time a row, where time goes, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from spectra_scale.errors import SpectraScaleError
from spectra_scale.figures.style import FAINT, INK, dress, head, new_figure, say

MODE_COLOURS = {"weak": "#2166c4", "strong": "#c8501e"}
_MODE_MARKERS = {"weak": "o", "strong": "s"}
START_COLOUR, MEMORY_COLOURS = "#a8a8a8", ("#b9cfe0", "#3d6a8f")
#: Colours of the parts of the work, in the order they are stacked.
PART_COLOURS = {
    "data": "#7fbf7b",
    "tasks": "#4f8fc4",
    "compute": "#4f8fc4",
    "all-reduce": "#d6604d",
    "driver alone": "#f2b35e",
    "not told apart": "#a9a0c8",
}
#: CPU time a row may grow by this much from one worker to more (design.md §6).
ALLOWED = 0.10


@dataclass(frozen=True, slots=True)
class ScalingPoint:
    """One measurement, as it is drawn.

    Parameters
    ----------
    stage, mode, workers
        Which it is.
    efficiency
        Rows a second and worker, relative to the fewest workers.
    wall_us, cpu_us
        Wall and CPU time a row, µs; None is not drawn.
    startup
        Seconds before the work; None is not drawn.
    parts
        Seconds of the work by what they went into.
    memory
        Peak MiB of all workers and of the largest; None is not drawn.
    crowded
        Whether there were fewer free cores than workers.
    """

    stage: str
    mode: str
    workers: int
    efficiency: float
    wall_us: float
    cpu_us: float | None
    startup: float | None
    parts: Mapping[str, float]
    memory: tuple[float | None, float | None]
    crowded: bool

    @property
    def label(self) -> str:
        """Mode and workers, for an axis."""
        return f"{self.mode}, {self.workers}{' †' if self.crowded else ''}"


def scaling_figure(points: Sequence[ScalingPoint], cores: int) -> Figure:
    """Scaling of stages, one row of panels each.

    Parameters
    ----------
    points
        Measurements, one of each stage, mode and number of workers.
    cores
        Cores of the machine.

    Returns
    -------
    Figure
        By stage: efficiency and time a row by workers; seconds of start-up, seconds of the work
        by what they went into, and memory, by mode and workers.
        Measurements on fewer free cores than workers are hollow, and marked †.

    Raises
    ------
    SpectraScaleError
        If there is nothing to draw.
    """
    if not points:
        message = "found no measurement, expected at least one: run `spectra-scale scaling` first."
        raise SpectraScaleError(message)
    stages = list(dict.fromkeys(point.stage for point in points))
    height = 0.9 + 2.75 * len(stages)
    figure = new_figure(16.4, height)
    widths = {"width_ratios": (1.0, 1.05, 0.75, 1.35, 0.9)}
    grid = figure.subplots(len(stages), 5, squeeze=False, gridspec_kw=widths)
    for panels, stage in zip(grid, stages, strict=True):
        mine = [point for point in points if point.stage == stage]
        _efficiency(panels[0], mine, stage)
        _time(panels[1], mine)
        _startup(panels[2], mine)
        _work(panels[3], mine)
        _memory(panels[4], mine)
    for axes in grid[:-1].ravel():
        axes.set_xlabel("")
    note = f"{cores} cores."
    if any(point.crowded for point in points):
        note += (
            " † hollow: more workers than cores that no other process used; "
            "wall times and efficiencies of these say little."
        )
    head(figure, "Scaling on local Ray", note)
    return figure


def _modes(points: Sequence[ScalingPoint]) -> list[tuple[str, list[ScalingPoint]]]:
    found = dict.fromkeys(point.mode for point in points)
    return [
        (mode, sorted((p for p in points if p.mode == mode), key=lambda p: p.workers))
        for mode in found
    ]


def _worker_axis(axes: Axes, points: Sequence[ScalingPoint]) -> None:
    numbers = sorted({point.workers for point in points})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(numbers))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlim(numbers[0] / 1.3, numbers[-1] * 1.3)


def _curve(
    axes: Axes, points: Sequence[ScalingPoint], values: Sequence[float], *, line: str
) -> None:
    colour, marker = MODE_COLOURS[points[0].mode], _MODE_MARKERS[points[0].mode]
    workers = [point.workers for point in points]
    axes.plot(workers, values, ls=line, color=colour, lw=1.5, zorder=2)
    for point, value in zip(points, values, strict=True):
        face, size = "white" if point.crowded else colour, 6.5 if line == "-" else 3.8
        axes.plot(point.workers, value, marker, ms=size, mec=colour, mfc=face, mew=1.3, zorder=3)


def _efficiency(axes: Axes, points: Sequence[ScalingPoint], stage: str) -> None:
    axes.axhline(1.0, color=FAINT, lw=1.0, ls="--", zorder=1)
    for _, mine in _modes(points):
        _curve(axes, mine, [point.efficiency for point in mine], line="-")
    _worker_axis(axes, points)
    axes.set_ylim(0, max(1.15, 1.08 * max(point.efficiency for point in points)))
    dress(axes, "workers", "efficiency", f"{stage}: efficiency")
    axes.legend(handles=_mode_handles(points), frameon=False, fontsize=8.5, loc="lower left")


def _mode_handles(points: Sequence[ScalingPoint]) -> list[Line2D]:
    return [
        Line2D([], [], color=MODE_COLOURS[mode], marker=_MODE_MARKERS[mode], ms=6, lw=1.5,
               label=mode)
        for mode, _ in _modes(points)
    ]  # fmt: skip


def _time(axes: Axes, points: Sequence[ScalingPoint]) -> None:
    highest = 0.0
    for mode, mine in _modes(points):
        wall = [point.wall_us for point in mine]
        _curve(axes, mine, wall, line=":")
        cpu = [point.cpu_us for point in mine if point.cpu_us is not None]
        if len(cpu) == len(mine):
            _curve(axes, mine, cpu, line="-")
            axes.axhspan(
                cpu[0], (1 + ALLOWED) * cpu[0], color=MODE_COLOURS[mode], alpha=0.10, lw=0
            )
        highest = max(highest, *wall, *cpu)
    _worker_axis(axes, points)
    axes.set_ylim(0, 1.28 * highest)
    dress(axes, "workers", "µs a row", "time a row")
    handles = [
        Line2D([], [], color=INK, lw=1.5, label="CPU"),
        Patch(color=INK, alpha=0.12, lw=0, label="10 % more"),
        Line2D([], [], color=INK, lw=1.5, ls=":", label="wall"),
    ]
    axes.legend(handles=handles, frameon=False, fontsize=8.5, loc="upper center", ncols=3,
                handlelength=1.6, columnspacing=1.2)  # fmt: skip


def _rows_axis(axes: Axes, points: Sequence[ScalingPoint], *, named: bool = False) -> list[float]:
    """Places of the bars from above, with a gap between modes and room for a legend below."""
    places, gap = [], 0.0
    for i, point in enumerate(points):
        gap += 0.4 if i and point.mode != points[i - 1].mode else 0.0
        places.append(i + gap)
    axes.set_yticks(places, [point.label if named else "" for point in points], fontsize=9)
    room = 0.16 * (places[-1] + 1.2)
    axes.set_ylim(places[-1] + 0.6 + room, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    return places


def _bar(axes: Axes, place: float, width: float, colour: str, left: float = 0.0) -> None:
    axes.barh(place, width, 0.74, left, color=colour, ec="white", lw=0.6)


def _finish_bars(axes: Axes, label: str, title: str, handles: Sequence[Patch]) -> None:
    axes.set_xlim(0, 1.3 * axes.get_xlim()[1])
    dress(axes, label, "", title)
    axes.tick_params(axis="y", left=False, right=False)
    if handles:
        axes.legend(handles=handles, frameon=False, fontsize=8.5, loc="lower left",
                    ncols=len(handles), bbox_to_anchor=(0.0, -0.02), handlelength=1.2,
                    handletextpad=0.5, columnspacing=1.0)  # fmt: skip


def _startup(axes: Axes, points: Sequence[ScalingPoint]) -> None:
    for place, point in zip(_rows_axis(axes, points, named=True), points, strict=True):
        if point.startup is not None:
            _bar(axes, place, point.startup, START_COLOUR)
            axes.text(point.startup, place, f" {point.startup:.1f}", va="center", fontsize=8.5)
    _finish_bars(axes, "seconds", "start-up", ())


def _work(axes: Axes, points: Sequence[ScalingPoint]) -> None:
    used: dict[str, None] = {}
    for place, point in zip(_rows_axis(axes, points), points, strict=True):
        left = 0.0
        for name in (name for name in PART_COLOURS if point.parts.get(name)):
            used[name] = None
            _bar(axes, place, point.parts[name], PART_COLOURS[name], left)
            left += point.parts[name]
        axes.text(left, place, f" {left:.3g}", va="center", fontsize=8.5, color=INK)
    handles = [
        Patch(color=colour, label=name) for name, colour in PART_COLOURS.items() if name in used
    ]
    _finish_bars(axes, "seconds", "work: where its wall time goes", handles)


def _memory(axes: Axes, points: Sequence[ScalingPoint]) -> None:
    known = False
    for place, point in zip(_rows_axis(axes, points), points, strict=True):
        total, largest = point.memory
        if total is not None:
            _bar(axes, place, total, MEMORY_COLOURS[0])
            axes.text(total, place, f" {total:,.0f}", va="center", fontsize=8.5, color=INK)
            known = True
        if largest is not None:
            axes.barh(place, largest, 0.34, color=MEMORY_COLOURS[1], ec="white", lw=0.6)
    if not known:
        dress(axes, "MiB", "", "peak memory of workers")
        say(axes, "not known")
        return
    handles = [
        Patch(color=colour, label=name)
        for name, colour in zip(("all", "largest"), MEMORY_COLOURS, strict=True)
    ]
    _finish_bars(axes, "MiB", "peak memory of workers", handles)
