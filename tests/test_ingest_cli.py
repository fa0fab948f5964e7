"""`spectra-scale ingest`, `status` and `verify` as a user gives them."""

import re

import pytest
from pipeline_builders import write_mock
from test_cli import call
from test_ingest import good

from spectra_scale.surveys.release import open_release


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with spectra of SDSS and DESI."""
    return write_mock(tmp_path_factory.mktemp("cli") / "mock", 60, 4, desi_fraction=0.4)


def test_plan_of_an_ingest_writes_nothing_and_is_about_right(folder, tmp_path, capsys):
    arguments = ["ingest", "desi", folder, "--out", tmp_path / "r", "--survey", "desi"]
    code, out, _ = call(capsys, *arguments, "--plan")
    assert code == 0
    assert not (tmp_path / "r").exists()
    assert re.search(r"ingest desi.*to do", out)
    about = int(re.search(r"about ([\d,]+) spectra to ingest", out)[1].replace(",", ""))
    assert "GiB free" in out
    assert "time: about" in out
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    n_rows = open_release(tmp_path / "r").n_rows
    # From the sizes of the files alone; sky spectra are in them, and are no rows.
    assert 0.8 * n_rows <= about <= 3 * n_rows
    code, out, _ = call(capsys, *arguments, "--plan")
    assert re.search(r"ingest desi.*done", out)
    assert f"release desi: {n_rows} spectra" in out


def test_a_folder_of_two_surveys_has_to_be_told_which(folder, tmp_path, capsys):
    code, _, err = call(capsys, "ingest", "x", folder, "--out", tmp_path / "r")
    assert code == 2
    assert "two surveys" in err
    assert "survey" in err
    code, _, err = call(
        capsys, "ingest", "x", folder, "--out", tmp_path / "r", "--survey", "2mass"
    )
    assert code == 2
    assert "'sdss'" in err


def test_status_says_what_releases_hold(tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    for fiber in (1, 2):
        good(source, fiber)
    arguments = ["ingest", "dr17", source, "--out", tmp_path / "releases" / "dr17"]
    for extra in ([], ["--no-copy"]):
        code, _, err = call(capsys, *arguments, *extra)
        assert (code == 0) == (extra == [])
    assert "setting copy" in err  # what is there was made with a copy
    good(source, 3)
    (source / "spec-0266-51602-0009.fits").write_bytes(b"")
    code, out, _ = call(capsys, *arguments)
    assert code == 0
    assert "release dr17.1" in out
    for path in (tmp_path / "releases", tmp_path / "releases" / "dr17"):
        code, out, _ = call(capsys, "status", path)
        assert code == 0
        expected = "release dr17 (sdss, spectra stored): 2 rows, 2 kept, 0 quarantined"
        assert expected in out
        assert re.search(r"release dr17\.1 .* 1 rows, .* 1 files without row; GALAXY 1;", out)
    code, out, _ = call(capsys, "verify", tmp_path / "releases", "--sources", "all")
    assert code == 0
    assert "2 of 2 spectra against the survey's files" in out
    good(source, 1, Z=0.2)  # another redshift, the same spectrum: nothing that verify looks at
    (source / "spec-0266-51602-0002.fits").unlink()
    code, out, _ = call(capsys, "verify", tmp_path / "releases", "--sources", "5")
    assert code == 1
    assert "spec-0266-51602-0002.fits" in out
    code, _, err = call(capsys, "verify", tmp_path / "releases", "--sources", "some")
    assert code == 2
    assert "--sources some" in err


def test_cuts_are_settings_of_ingest(tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    for fiber, z in ((1, 0.1), (2, 0.9)):
        good(source, fiber, Z=z)
    arguments = ["ingest", "cut", source, "--out", tmp_path / "r", "--set", "ingest.z_max=0.5"]
    code, out, _ = call(capsys, *arguments, "--engine", "serial")
    assert code == 0
    assert "row: cut_redshift 1" in out
    assert "rows left out: 1" in out
