"""Learning curves: what TensorBoard would show is the history, after a kill as without one."""

import shutil
import struct

import numpy as np
import pytest
from google_crc32c import value as crc32c
from pipeline_builders import digests, low_rank_spectra, make_sample
from tensorboardX.proto.event_pb2 import Event, SessionLog
from test_train_stage import history, run

from spectra_scale.stages.train import worker
from spectra_scale.stages.train.curves import SPEED, TAGS
from spectra_scale.store.artifact import CURVES, check_files


def records(path):
    """Events of a file, by the format of TFRecord; a record cut by a kill ends it."""
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        payload = data[at + 12 : at + 12 + size]
        for part, place in ((data[at : at + 8], at + 8), (payload, at + 12 + size)):
            crc = crc32c(part)
            masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            assert struct.unpack_from("<I", data, place) == (masked,)
        yield Event.FromString(payload)
        at += 16 + size


def shown(folder):
    """Curves by tag, as (step, value), with the rule by which TensorBoard forgets.

    A session that starts at step s drops what earlier ones said of s and later steps.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        for event in records(path):
            if event.session_log.status == SessionLog.START:
                found = {t: [p for p in ps if p[0] < event.step] for t, ps in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("curves") / "sample", *low_rank_spectra(200, 60))


def assert_curves_are_the_history(path):
    curves, table = shown(path / CURVES), history(path)
    assert set(curves) == {*TAGS, SPEED}
    for tag, points in curves.items():
        steps, values = np.transpose(points)
        np.testing.assert_array_equal(steps, table["epoch"], err_msg=tag)
        if tag != SPEED:
            # Events are float32.
            np.testing.assert_array_equal(values.astype("f4"), table[TAGS[tag]].astype("f4"), tag)
        assert (values > 0).all()


def test_curves_are_the_history(sample, here, tmp_path):
    made = run(sample, tmp_path / "ae", here)
    assert_curves_are_the_history(made.path)
    (file,) = (made.path / CURVES).iterdir()
    first = next(records(file))
    assert first.file_version == "brain.Event:2"
    # Seconds and epochs done, no host.
    assert file.name.startswith("events.out.tfevents.")
    assert all(part.isdecimal() for part in file.name.split(".")[3:])


@pytest.mark.parametrize("epoch", [1, 3, 6])
def test_a_resumed_training_goes_on_with_the_same_curves(
    sample, here, tmp_path, monkeypatch, epoch
):
    # Before the first checkpoint, between two, and after the last epoch.
    class Killed(BaseException):
        pass

    write = worker.write_history

    def killed(path, records):
        write(path, records)
        if len(records) == epoch:
            raise Killed

    monkeypatch.setattr(worker, "write_history", killed)
    with pytest.raises(Killed):
        run(sample, tmp_path / "ae", here)
    before = shown(tmp_path / "ae" / CURVES)
    assert [step for step, _ in before["loss/train"]] == list(range(1, epoch + 1))
    monkeypatch.undo()
    # A kill may leave half a record, too.
    (file,) = (tmp_path / "ae" / CURVES).iterdir()
    if epoch == 3:
        with file.open("ab") as cut:
            cut.write(b"\x10\x00\x00\x00")
    made = run(sample, tmp_path / "ae", here)
    assert_curves_are_the_history(made.path)


def test_an_epoch_that_was_begun_before_has_no_speed(sample, here, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    save = worker._Keeper.save

    def killed(self, state):
        save(self, state)
        if (state.epoch, state.batch) == (1, 3):
            raise Killed

    monkeypatch.setattr(worker._Keeper, "save", killed)
    with pytest.raises(Killed):
        run(sample, tmp_path / "ae", here, checkpoint_batches=3)
    monkeypatch.undo()
    made = run(sample, tmp_path / "ae", here, checkpoint_batches=3)
    curves = shown(made.path / CURVES)
    # Its seconds are those of its rest.
    assert [step for step, _ in curves.pop(SPEED)] == [1, 3, 4, 5, 6]
    assert all([s for s, _ in points] == [1, 2, 3, 4, 5, 6] for points in curves.values())


def test_curves_are_no_part_of_what_an_artifact_promises(sample, here, tmp_path):
    made = run(sample, tmp_path / "ae", here)
    assert not [name for name in made.manifest["files"] if CURVES in name]
    check_files(made)
    shutil.rmtree(made.path / CURVES)
    check_files(made)
    before = digests(made.path, without=())
    assert run(sample, made.path, here).fingerprint == made.fingerprint
    assert digests(made.path, without=()) == before
