"""Learning curves as events that TensorBoard reads, beside the weights.

``tensorboard --logdir RUN/autoencoder/tensorboard`` shows them while a training runs. They hold
the time of day, so nothing is said of their bytes: they are not in the manifest's list of files,
and may be deleted.
"""

from __future__ import annotations

import time
from pathlib import Path

from spectra_scale.models.training import EpochRecord, TrainState
from spectra_scale.store.artifact import CURVES

#: Curve of each field of a record; TensorBoard puts those of one name before the slash together.
TAGS = {
    f"{name}/{split}": f"{split}_{field}"
    for name, field in (
        ("chi2 (eq. 1)", "chi2"),
        ("chi2 (eq. 2)", "chi2_valid"),
        ("chi2 not capped (eq. 1)", "chi2_uncapped"),
        ("chi2 not capped (eq. 2)", "chi2_valid_uncapped"),
        ("loss", "loss"),
    )
    for split in ("train", "validation")
} | {"how/learning rate": "learning_rate"}
SPEED = "how/spectra a second"


class Curves:
    """One file of events: what a training adds from its start or its resume on.

    Parameters
    ----------
    out
        Directory of the artifact.
    state
        Where the training goes on; None from the start.
    """

    def __init__(self, out: Path, state: TrainState | None) -> None:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        self._event, self._summary = Event, Summary
        done = 0 if state is None else state.epoch
        # The seconds of an epoch that was begun before are those of its rest alone.
        self._begun = state is not None and state.batch > 0
        (out / CURVES).mkdir(exist_ok=True)
        # TensorBoard reads files in the order of their names. Its own writers put the host's
        # name into them, which is nobody's business where a model is passed on.
        name = f"events.out.tfevents.{int(time.time()):010d}.{done:06d}"
        self._file = RecordWriter(str(out / CURVES / name))
        self._write(file_version="brain.Event:2")
        # Epochs after the checkpoint are run again: TensorBoard forgets what it has of them.
        self._write(step=done + 1, session_log=SessionLog(status=SessionLog.START))
        self._file.flush()

    def add(self, record: EpochRecord) -> None:
        """Add an epoch to every curve, and flush: a killed training has lost none."""
        values = {tag: getattr(record, field) for tag, field in TAGS.items()}
        if not self._begun:
            values[SPEED] = record.rows / record.seconds
        self._begun = False
        points = [self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()]
        self._write(step=record.epoch, summary=self._summary(value=points))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **fields: object) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._file.write(event.SerializeToString())
