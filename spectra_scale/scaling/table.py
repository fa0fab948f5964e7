"""The results: one row a measurement on disk, one line each with efficiencies in the table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from spectra_scale.errors import UsageError
from spectra_scale.provenance import write_bytes
from spectra_scale.scaling.plan import Measurement

#: Cores that others may use before a measurement on all cores counts as crowded.
TOLERANCE = 0.25


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement and what it found; None where a number cannot be told.

    Parameters
    ----------
    stage, mode, workers, repeat, rows, batch, settings
        Of the `Measurement`.
    rows_done
        Rows that the work went through: in training, once an epoch after the first.
    total_seconds, startup_seconds, work_seconds
        Wall time from asking for Ray to the stage's end; of starting Ray and its workers; of the
        work: the warmed-up stage, or the epochs after the first.
    cpu_seconds, ray_cpu_seconds
        CPU time of the work in driver and workers, and in Ray's own processes meanwhile.
    data_seconds, compute_seconds, reduce_seconds, driver_seconds
        Parts of the work's wall time: reading, computing (tasks of ingest and encode do both),
        all-reduce, and the driver alone while workers wait.
    memory_sum_mib, memory_max_mib
        Peak resident memory of all workers together, and of one.
    cores, other_cpus, load_begin, load_end
        Cores of the machine, how many of them other processes kept busy, and its load.
    """

    stage: str
    mode: str
    workers: int
    repeat: int
    rows: int
    batch: int
    settings: str
    rows_done: float
    total_seconds: float
    startup_seconds: float | None
    work_seconds: float
    cpu_seconds: float | None
    ray_cpu_seconds: float | None
    data_seconds: float | None
    compute_seconds: float | None
    reduce_seconds: float | None
    driver_seconds: float | None
    memory_sum_mib: float | None
    memory_max_mib: float | None
    cores: int
    other_cpus: float | None
    load_begin: float
    load_end: float

    @classmethod
    def of(cls, this: Measurement, found: Mapping[str, Any]) -> Result:
        """The result of a measurement."""
        return cls(**this.to_dict(), **found)

    @property
    def measurement(self) -> Measurement:
        """What was measured."""
        return Measurement(*(getattr(self, each.name) for each in fields(Measurement)))

    @property
    def wall_us(self) -> float:
        """Wall time of the work a row, µs."""
        return 1e6 * self.work_seconds / self.rows_done

    @property
    def cpu_us(self) -> float | None:
        """CPU time of the work a row, µs."""
        return None if self.cpu_seconds is None else 1e6 * self.cpu_seconds / self.rows_done

    @property
    def crowded(self) -> bool:
        """Whether there were more workers than cores that nobody else used."""
        return self.workers > self.cores - (self.other_cpus or 0.0) + TOLERANCE


NAMES = [each.name for each in fields(Result)]
#: Made from the others, for whoever reads the file without this program.
DERIVED = ("wall_us_a_row", "cpu_us_a_row", "efficiency")


# On disk ----------------------------------------------------------------------------------------


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write all results at once: a reader, or a run that goes on, never finds half a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*NAMES, *DERIVED])
    for result in results:
        derived = (result.wall_us, result.cpu_us, efficiency(result, baseline(result, results)))
        writer.writerow([_field(v) for v in (*asdict(result).values(), *derived)])
    write_bytes(path, text.getvalue().encode())


def _field(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def read_results(path: Path) -> list[Result]:
    """Results written so far; none if there is no file yet.

    Raises
    ------
    UsageError
        If the file is not one of `write_results`.
    """
    if not path.is_file():
        return []
    types = get_type_hints(Result)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, lines = list(reader.fieldnames or ()), list(reader)
        if columns != [*NAMES, *DERIVED]:
            raise UsageError(_not_ours(path, f"the columns {', '.join(columns) or '(none)'}"))
        return [Result(**{name: _value(line[name], types[name]) for name in NAMES})
                for line in lines]  # fmt: skip
    except (ValueError, TypeError, csv.Error) as error:
        raise UsageError(_not_ours(path, str(error))) from error


def _not_ours(path: Path, found: str) -> str:
    return (
        f"{path}: found {found}, expected results of this version of scaling. Give another --out, "
        "or move the file."
    )


def _value(text: str, kind: Any) -> Any:
    if kind is str:
        return text
    if kind is int:
        return int(text)
    return None if text == "" and kind is not float else float(text)


# Efficiencies ----------------------------------------------------------------------------------


def baseline(result: Result, among: Iterable[Result]) -> Result:
    """The fastest result of the same kind on the fewest workers."""
    same = [each for each in among if _kind(each) == _kind(result)]
    fewest = min(each.workers for each in same)
    return min((e for e in same if e.workers == fewest), key=lambda each: each.wall_us)


def _kind(result: Result) -> tuple[Any, ...]:
    """What results must have in common to be compared.

    That is the size of the work of one worker (weak) or of all (strong).
    """
    weak = result.mode == "weak"
    sizes = (result.rows, result.batch)
    share = tuple(size / result.workers for size in sizes) if weak else sizes
    return (result.stage, result.mode, result.settings, share)


def efficiency(result: Result, base: Result) -> float:
    """Rows a second and worker, relative to those of `base`.

    With as many rows a worker this is t₁/t_N, with as many in all t₁/(N t_N).

    Parameters
    ----------
    result, base
        Results of the same kind.
    """
    mine, theirs = result.wall_us * result.workers, base.wall_us * base.workers
    return theirs / mine


def growth(result: Result, base: Result) -> float | None:
    """CPU time a row relative to that of `base`, minus 1."""
    if result.cpu_us is None or base.cpu_us is None:
        return None
    return result.cpu_us / base.cpu_us - 1


def fastest(results: Iterable[Result], wanted: Iterable[Measurement]) -> list[Result]:
    """Of each kind, mode and number of workers that is wanted the fastest repeat, in order."""
    asked = list(wanted)
    best: dict[tuple[Any, ...], Result] = {}
    for result in results:
        if result.measurement in asked:
            key = (result.stage, result.mode, result.workers)
            if key not in best or result.wall_us < best[key].wall_us:
                best[key] = result
    order = dict.fromkeys((each.stage, each.mode, each.workers) for each in asked)
    return [best[key] for key in order if key in best]


# The table -------------------------------------------------------------------------------------

# A new line keeps a column narrow on a terminal.
TIMES = ("measured", "rows", "batch", "wall\nµs/row", "CPU\nµs/row", "CPU\nmore",
         "efficiency")  # fmt: skip
WHERE = ("measured", "start-up\ns", "work\ns", "data", "compute", "all-reduce",
         "driver\nalone")  # fmt: skip
USED = ("measured", "memory\nMiB", "largest\nMiB", "Ray's\nCPU, s", "others'\ncores",
        "load at\nbegin", "load\nat end")  # fmt: skip
Lines = list[tuple[str, ...]]


def tables(results: Sequence[Result]) -> dict[str, tuple[tuple[str, ...], Lines]]:
    """The results as text: by title, the names of columns and one line a result."""
    times = [_times(result, baseline(result, results)) for result in results]
    return {
        "Time a row": (TIMES, times),
        "Where the time goes": (WHERE, [_where(result) for result in results]),
        "Memory, and the machine": (USED, [_used(result) for result in results]),
    }


def _name(result: Result) -> str:
    return f"{result.stage} {result.mode} {result.workers}{' †' if result.crowded else ''}"


def _times(result: Result, base: Result) -> tuple[str, ...]:
    first = result.workers == base.workers
    more = growth(result, base)
    return (
        _name(result),
        f"{result.rows:,}",
        f"{result.batch:,}" if result.batch else "–",
        f"{result.wall_us:,.0f}",
        _number(result.cpu_us, ",.0f"),
        "–" if first or more is None else f"{100 * more:+.1f} %",
        f"{efficiency(result, base):.2f}",
    )


def _where(result: Result) -> tuple[str, ...]:
    seconds = (result.data_seconds, result.compute_seconds, result.reduce_seconds,
               result.driver_seconds)  # fmt: skip
    shares = (None if part is None else 100 * part / result.work_seconds for part in seconds)
    return (
        _name(result),
        _number(result.startup_seconds, ".1f"),
        f"{result.work_seconds:.2f}",
        *("–" if share is None else f"{share:.0f} %" for share in shares),
    )


def _used(result: Result) -> tuple[str, ...]:
    return (
        _name(result),
        _number(result.memory_sum_mib, ",.0f"),
        _number(result.memory_max_mib, ",.0f"),
        _number(result.ray_cpu_seconds, ".2f"),
        _number(result.other_cpus, ".2f"),
        f"{result.load_begin:.1f}",
        f"{result.load_end:.1f}",
    )


def _number(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)


#: Parts of the work and what they are called, in ingest and encode, and in training.
PARTS = (("data", "data_seconds"), ("compute", "compute_seconds"),
         ("all-reduce", "reduce_seconds"), ("driver alone", "driver_seconds"))  # fmt: skip
REST = "not told apart"


def parts(result: Result) -> dict[str, float]:
    """Wall seconds of the work by what they went into; what is not known is a part of its own."""
    names = dict(PARTS) if result.stage == "train" else {
        ("tasks" if name == "compute" else name): field for name, field in PARTS
    }  # fmt: skip
    found = {name: getattr(result, field) for name, field in names.items()}
    known = {name: value for name, value in found.items() if value is not None}
    rest = result.work_seconds - sum(known.values())
    # Numbers on disk have six digits.
    return known | ({REST: rest} if rest > 1e-4 * result.work_seconds else {})


def notes(results: Sequence[Result]) -> list[str]:
    """What a reader has to know of the table: the machine, and which lines to doubt."""
    n_cores = max((result.cores for result in results), default=0)
    found = [
        f"Measured: stage, mode, workers; on {n_cores} cores. Start-up (Ray, workers, their "
        "libraries) is not in the work.",
        "Efficiency: rows a second and worker, relative to the fewest workers. "
        "CPU more: CPU time a row, relative to them.",
        "Parts are of the work's wall time; compute of ingest and encode is their tasks, which "
        "read too. Memory: peak of all workers together, and of one. "
        "Others' cores: kept busy by other processes meanwhile.",
    ]
    crowded = [result for result in results if result.crowded]
    if crowded:
        others = max(result.other_cpus or 0.0 for result in crowded)
        found.append(
            f"† {len(crowded)} of {len(results)} measurements had more workers than free cores "
            f"(other processes kept up to {others:.1f} of {n_cores} busy): their wall times and "
            "efficiencies say little, and their CPU times vary by some per cent."
        )
    if any(result.cpu_seconds is None for result in results):
        found.append("The history of this version's training has no CPU times (–).")
    return found


def markdown(results: Sequence[Result], command: str) -> str:
    """The tables as a Markdown page.

    Parameters
    ----------
    results
        As in `tables`.
    command
        What printed it.
    """
    text = [f"# Scaling\n\n`{command}`\n"]
    for title, (names, lines) in tables(results).items():
        rows = [[name.replace("\n", " ") for name in names], ["---"] * len(names), *lines]
        table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
        text.append(f"## {title}\n\n{table}")
    text.append("\n".join(f"- {note}" for note in notes(results)) + "\n")
    return "\n".join(text)
