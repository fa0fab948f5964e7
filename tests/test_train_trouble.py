"""Trainings in trouble: bad pixels, full disks, losses that diverge, more spectra than memory."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from pipeline_builders import low_rank_spectra, make_sample
from test_ingest_disks import disk  # noqa: F401 - a fixture
from test_train_stage import N_PIXELS, assert_equal_training, history, run

from spectra_scale.errors import SpectraScaleError, explain_system_error
from spectra_scale.stages.train import scan
from spectra_scale.store.objects import column
from spectra_scale.store.tables import read_table

N = 300


def test_spectra_that_are_not_finite_are_named_and_teach_nothing(tmp_path, here):
    flux, ivar = low_rank_spectra(N, N_PIXELS)
    bad = {7: "not_finite", 20: "not_finite", 33: "not_finite", 41: "all_masked",
           50: "median_not_positive"}  # fmt: skip
    flux[7, 3], ivar[7, 3] = np.nan, 1
    flux[20, 0], ivar[20, 0] = -np.inf, 1
    ivar[33, 5] = np.inf
    flux[41], ivar[41] = 0, 0
    flux[50] *= -1
    sample = make_sample(tmp_path / "s", flux, ivar)
    made = run(sample, tmp_path / "ae", here, fill="linear", initial="linear", hidden=(24, 12))
    table = read_table(made.path / "unusable.parquet")
    assert dict(zip(column(table, "row").tolist(), column(table, "reason"), strict=True)) == bad
    keys = column(sample.index, "spectrum_key")
    assert column(table, "spectrum_key").tolist() == [keys[row] for row in bad]
    assert made.counts["unusable"] == 5
    assert {made.counts[name] for name in ("all_masked", "median_not_positive")} == {1}
    assert made.counts["not_finite"] == 3
    used = np.concatenate([scan.read_usable_rows(made.path)[name]
                           for name in ("train", "validation")])  # fmt: skip
    assert not set(bad) & set(used.tolist())
    # What they hold changes nothing: the same training as with other bad values.
    flux[7, 3], flux[20, 0], ivar[33, 5] = np.inf, np.nan, np.nan
    other = run(make_sample(tmp_path / "t", flux, ivar), tmp_path / "be", here, fill="linear",
                initial="linear", hidden=(24, 12))  # fmt: skip
    assert_equal_training(made.path, other.path)


def test_a_sample_without_a_usable_spectrum_says_why(tmp_path, here):
    flux, ivar = low_rank_spectra(20, N_PIXELS)
    sample = make_sample(tmp_path / "s", 0 * flux, 0 * ivar)
    with pytest.raises(SpectraScaleError, match=r"found 0 training .*unusable: all_masked 20\)"):
        run(sample, tmp_path / "ae", here)


@pytest.mark.parametrize("learning_rate", [1e5, 1e30])
def test_a_loss_that_diverges_names_epoch_rate_and_spectra(tmp_path, here, learning_rate):
    sample = make_sample(tmp_path / "s", *low_rank_spectra(N, N_PIXELS))
    with pytest.raises(SpectraScaleError, match=r"diverges in epoch \d") as told:
        run(sample, tmp_path / "ae", here, learning_rate=learning_rate)
    named = re.search(r"at a learning rate of ([^ ]+)\. .*Largest in the last batch: (.*)\.$",
                      str(told.value))  # fmt: skip
    assert float(named[1]) == pytest.approx(learning_rate, rel=0.02)
    keys = named[2].split(", ")
    assert len(keys) == 5
    assert set(keys) <= set(column(sample.index, "spectrum_key"))
    # With a rate that works the same folder goes on, from nothing if there is no checkpoint.
    assert not (tmp_path / "ae" / "manifest.json").exists()


def test_a_batch_larger_than_the_sample_is_one_batch(tmp_path, here):
    sample = make_sample(tmp_path / "s", *low_rank_spectra(40, N_PIXELS))
    made = run(sample, tmp_path / "ae", here, batch_size=10_000, epochs=2)
    assert history(made.path)["rows"].tolist() == [30, 30]


def test_a_full_disk_keeps_the_last_checkpoint_and_the_same_command_goes_on(
    tmp_path,
    here,
    disk,  # noqa: F811
):
    sample = make_sample(tmp_path / "s", *low_rank_spectra(N, N_PIXELS))
    how = {"hidden": (240, 120), "checkpoint_every": 1, "epochs": 5}
    whole = run(sample, tmp_path / "whole", here, **how)
    one = sum(f.stat().st_size for f in (whole.path / "checkpoint").iterdir())
    refusals = 0
    for size in range(one // 2, 6 * one, one // 3):
        disk.mount(f"size={size}")
        out = disk.path / "ae"
        refused = refusal(sample, out, here, how)
        if refused is not None:
            assert "GiB free there" in explain_system_error(refused)[0]
            assert not list(out.glob("*.partial"))
            done = (out / "checkpoint" / "state.json").is_file()
            subprocess.run(["mount", "-o", "remount,size=64m", disk.path], check=True)
            made = run(sample, out, here, **how)
            assert_equal_training(made.path, whole.path)
            refusals += done
        disk.unmount()
    assert refusals >= 1


def refusal(sample, out, here, how):
    try:
        run(sample, out, here, **how)
    except OSError as error:
        return error
    return None


STREAM = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from spectra_scale.compute.place import Here
    from spectra_scale.provenance import peak_memory
    from spectra_scale.store.sample import open_sample
    from spectra_scale.stages import train
    from test_train_stage import run
    train.BASELINE_ROWS = 1000  # which are held whatever the size of the sample
    sample = open_sample(sys.argv[2])
    made = run(sample, Path(sys.argv[3]), Here(), memory_gib=float(sys.argv[4]), n_latent=2,
               epochs=1, batch_size=512, buffer_gib=1e-9, hidden=(8, 4))
    print((made.path / "data.txt").read_text())
    print(peak_memory())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_sample(tmp_path):
    """Spectra of 11 and of 183 MiB stream through the same 10."""
    peaks = {}
    for n, memory in ((3000, 0.01), (48_000, 0.01)):
        out = tmp_path / f"{n}-{memory}"
        flux, ivar = low_rank_spectra(n, 500)
        sample = make_sample(out / "s", flux, ivar)
        del flux, ivar
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(STREAM), Path(__file__).parent, sample.path,
             out / "ae", str(memory)], capture_output=True, text=True, check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        said, peak = done.stdout.strip().splitlines()
        assert "streamed through 0.01 GiB" in said, said
        peaks[n, memory] = float(peak)
    assert peaks[48_000, 0.01] < peaks[3000, 0.01] + 40
