"""Progress of long steps: a rate and an ETA, on a terminal and as plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time

log = logging.getLogger(__name__)
#: Loggers of libraries that say more than a user wants to know.
NOISY = ("distributed", "ray", "numba", "matplotlib", "asyncio")


def log_to_terminal() -> None:
    """Show the log on stderr, and of libraries the warnings alone: for a process of our own."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


class Progress:
    """Count what is done and say so now and then.

    Parameters
    ----------
    label
        What is being done, for instance ``ingest dr17``.
    total
        Units in all.
    unit
        What is counted, for instance ``spectra``.
    interval
        Least seconds between two lines. The first comes after one interval, so that short steps
        stay silent until they end.
    """

    def __init__(self, label: str, total: int, unit: str = "tasks", interval: float = 5.0) -> None:
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.done = 0
        self._start = self._last = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more units; `note` is added to the line."""
        self.done += n
        now = time.monotonic()
        if now - self._last >= self.interval or self.done >= self.total:
            self._last = now
            self._say(now, note)

    def _say(self, now: float, note: str) -> None:
        seconds = max(now - self._start, 1e-9)
        rate = self.done / seconds
        left = (self.total - self.done) / rate if rate else float("inf")
        ending = (
            f"took {duration(seconds)}" if self.done >= self.total else f"ETA {duration(left)}"
        )
        share = 100.0 * self.done / max(self.total, 1)
        line = (
            f"{self.label}: {self.done:,}/{self.total:,} {self.unit} ({share:.0f} %), "
            f"{rate:,.4g} {self.unit}/s, {ending}{' · ' + note if note else ''}"
        )
        # On a terminal the line is rewritten in place; the log always gets whole lines.
        if sys.stderr.isatty():
            end = "\n" if self.done >= self.total else ""
            sys.stderr.write(f"\r\x1b[K{line}{end}")
            sys.stderr.flush()
            log.debug("%s", line)
        else:
            log.info("%s", line)


def duration(seconds: float) -> str:
    """Seconds in words.

    Examples
    --------
    >>> duration(42), duration(200), duration(7300)
    ('42 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds == float("inf"):
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
