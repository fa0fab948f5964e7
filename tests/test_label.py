"""Labels: line tables of several surveys joined to catalogues by key (science.md §5)."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from astropy.io import fits
from surveys_builders import table_hdu

from spectra_scale.compute.place import Here
from spectra_scale.config import LabelSection
from spectra_scale.errors import SpectraScaleError
from spectra_scale.spectrum.classify import Label
from spectra_scale.spectrum.identity import desi_key, sdss_key
from spectra_scale.stages import label
from spectra_scale.store.schema import LABELS, LINES
from spectra_scale.store.tables import read_table
from spectra_scale.surveys import lines as line_tables

SDSS = sdss_key([266, 266, 3606, 3606], [51602, 51602, 55182, 55182], [1, 2, 679, 680]).tolist()
TARGETS = np.array([10, 20, 30, 40], "i8")
DESI = desi_key(["main", "main", "sv3", "main"], ["dark", "dark", "dark", "bright"], TARGETS)
# Well inside each region of the BPT diagram: x = log [N II]/Hα, y = log [O III]/Hβ.
STAR_FORMING = {"hbeta": 10, "oiii": 5, "halpha": 30, "nii": 6}  # x = -0.7, y = -0.3
AGN = {"hbeta": 10, "oiii": 80, "halpha": 30, "nii": 30}  # x = 0, y = 0.9
NAMES = {"hbeta": "Hb_4861", "oiii": "OIII_5006", "halpha": "Ha_6562", "nii": "NII_6583"}


def cas_table(path, rows):
    """A CAS export: (plate, mjd, fibre, fluxes) a row, all errors 1."""
    columns = {"plate": [r[0] for r in rows], "mjd": [r[1] for r in rows]}
    columns["fiberid"] = [r[2] for r in rows]
    for line, name in NAMES.items():
        columns[f"Flux_{name}"] = [float(r[3][line]) for r in rows]
        columns[f"Flux_{name}_Err"] = [1.0] * len(rows)
    columns |= {"EW_Ha_6562": [20.0] * len(rows), "EW_Ha_6562_Err": [1.0] * len(rows)}
    pa_csv.write_csv(pa.table(columns), path)
    return path


def fastspec_table(path, rows, broad=()):
    """FASTSPEC: (targetid, survey, program, fluxes) a row; broad Hα for the rows of `broad`."""
    n = len(rows)
    columns = {
        "TARGETID": np.array([r[0] for r in rows], "i8"),
        "SURVEY": np.array([r[1] for r in rows]),
        "PROGRAM": np.array([r[2] for r in rows]),
        "HALPHA_EW": np.full(n, 20, "f4"),
        "HALPHA_EW_IVAR": np.ones(n, "f4"),
    }
    for line, name in zip(NAMES, ("HBETA", "OIII_5007", "HALPHA", "NII_6584"), strict=True):
        columns[f"{name}_FLUX"] = np.array([r[3][line] for r in rows], "f4")
        columns[f"{name}_FLUX_IVAR"] = np.ones(n, "f4")
    wide = np.isin(np.arange(n), broad)
    for name in ("HALPHA_BROAD", "HBETA_BROAD"):
        there = wide & (name == "HALPHA_BROAD")
        columns[f"{name}_FLUX"] = np.where(there, 100, 0).astype("f4")
        columns[f"{name}_FLUX_IVAR"] = np.where(there, 1, 0).astype("f4")
        columns[f"{name}_SIGMA"] = np.where(there, 1000, 0).astype("f4")
    fits.HDUList([fits.PrimaryHDU(), table_hdu(columns, "FASTSPEC")]).writeto(path)
    return path


def release(name, keys, subclass=None, **lines):
    """What the stage takes of a release: its catalogue and the pipeline's own lines."""
    n = len(keys)
    catalogue = {
        name: pa.array(list(values), pa.string())
        for name, values in (("spectrum_key", keys), ("subclass", subclass or [""] * n))
    }
    empty = {field.name: np.full(n, np.nan) for field in LINES.arrow()}
    empty |= {"broad": np.zeros(n, bool), "measured": np.zeros(n, bool), "source": [""] * n}
    table = pa.table(empty | lines).cast(LINES.arrow())
    return SimpleNamespace(
        name=name, path=Path(f"/{name}"), n_rows=n, catalogue=pa.table(catalogue), lines=table
    )


@pytest.fixture
def run_labels(tmp_path, monkeypatch):
    """Label releases that are not on disk; give the table of each, and the counts."""

    def run(releases, tables, out="labels"):
        by_path = {each.path: each for each in releases}
        monkeypatch.setattr(label, "open_release", lambda path: by_path[path])
        config = LabelSection(lines=tuple(tables))
        recipe = label.recipe({each.name: each.name for each in releases}, config)
        done = label.run(releases, config, Here(), tmp_path / out, recipe)
        folder = tmp_path / out / "objects"
        return {r.name: read_table(folder / f"{r.name}.parquet") for r in releases}, done.counts

    return run


def test_each_release_takes_its_lines_from_the_tables_of_its_survey(run_labels, tmp_path):
    sdss = cas_table(
        tmp_path / "port.csv", [(266, 51602, 2, AGN), (3606, 55182, 679, STAR_FORMING)]
    )
    desi = fastspec_table(
        tmp_path / "fastspec.fits",
        [(30, "sv3", "dark", AGN), (10, "main", "dark", STAR_FORMING), (20, "sv1", "dark", AGN)],
    )
    tables, counts = run_labels([release("dr17", SDSS), release("dr1", DESI)], [sdss, desi])
    none, agn, star = Label.NOT_AVAILABLE, Label.NARROW_LINE_AGN, Label.STAR_FORMING
    assert tables["dr17"]["label"].to_pylist() == [none, agn, star, none]
    # TARGETID 20 was measured in another survey of DESI: that is another spectrum.
    assert tables["dr1"]["label"].to_pylist() == [star, none, agn, none]
    assert tables["dr17"]["source"].to_pylist() == ["", "cas", "cas", ""]
    assert tables["dr1"]["source"].to_pylist() == ["fastspecfit", "", "fastspecfit", ""]
    assert tables["dr1"]["measured"].to_pylist() == [True, False, True, False]
    assert tables["dr1"]["halpha_flux"].to_pylist()[0] == 30
    assert (counts["rows"], counts["N/A"]) == (8, 4)
    assert tables["dr1"].schema.equals(LABELS.arrow())


def test_a_broad_line_of_desi_makes_the_broad_line_class(run_labels, tmp_path):
    rows = [(10, "main", "dark", STAR_FORMING), (20, "main", "dark", STAR_FORMING)]
    desi = fastspec_table(tmp_path / "fastspec.fits", rows, broad=[1])
    subclass = ["", "", "", "BROADLINE"]
    tables, _ = run_labels([release("dr1", DESI, subclass)], [desi])
    expected = [Label.STAR_FORMING, Label.BROAD_LINE, Label.NOT_AVAILABLE, Label.BROAD_LINE]
    assert tables["dr1"]["label"].to_pylist() == expected
    # What the table says is kept apart from what the pipeline's subclass says.
    assert tables["dr1"]["broad"].to_pylist() == [False, True, False, False]


def test_the_first_table_that_has_an_object_wins(run_labels, tmp_path):
    first = cas_table(tmp_path / "a.csv", [(266, 51602, 2, AGN)])
    second = cas_table(
        tmp_path / "b.csv", [(266, 51602, 2, STAR_FORMING), (266, 51602, 1, STAR_FORMING)]
    )
    tables, _ = run_labels([release("dr17", SDSS)], [first, second])
    assert tables["dr17"]["label"].to_pylist()[:2] == [Label.STAR_FORMING, Label.NARROW_LINE_AGN]
    tables, _ = run_labels([release("dr17", SDSS)], [second, first], out="other")
    assert tables["dr17"]["label"].to_pylist()[:2] == [Label.STAR_FORMING, Label.STAR_FORMING]


def test_the_same_observation_in_two_rows_has_the_same_label_in_both(run_labels, tmp_path):
    table = cas_table(tmp_path / "a.csv", [(266, 51602, 2, AGN)])
    tables, _ = run_labels([release("dr17", [SDSS[1], SDSS[0], SDSS[1]])], [table])
    assert tables["dr17"]["source"].to_pylist() == ["cas", "", "cas"]


def test_without_tables_the_pipelines_own_lines_count(run_labels):
    lines = {f"{name}_flux": np.full(4, float(flux)) for name, flux in AGN.items()}
    lines |= {f"{name}_err": np.ones(4) for name in AGN}
    lines["measured"] = np.array([True, True, False, True])
    tables, _ = run_labels([release("dr17", SDSS, **lines)], [])
    agn = Label.NARROW_LINE_AGN
    assert tables["dr17"]["label"].to_pylist() == [agn, agn, Label.NOT_AVAILABLE, agn]


def test_a_table_of_another_survey_is_not_read(run_labels, tmp_path, monkeypatch):
    desi = fastspec_table(tmp_path / "fastspec.fits", [(10, "main", "dark", AGN)])

    def read(path):
        raise AssertionError(path)

    monkeypatch.setattr(label, "read_line_catalogue", read)
    tables, _ = run_labels([release("dr17", SDSS)], [desi])
    assert tables["dr17"]["label"].to_pylist() == [Label.NOT_AVAILABLE] * 4


def test_a_release_without_rows_has_no_labels(run_labels, tmp_path):
    table = cas_table(tmp_path / "a.csv", [(266, 51602, 2, AGN)])
    tables, counts = run_labels([release("dr17", [])], [table])
    assert tables["dr17"].num_rows == 0
    assert counts["rows"] == 0


def test_a_table_that_is_no_line_table_stops_the_stage_in_words(run_labels, tmp_path):
    path = tmp_path / "page.fits"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(SpectraScaleError, match=r"page\.fits"):
        run_labels([release("dr17", SDSS)], [path])


def test_a_million_rows_are_joined_in_seconds():
    import time

    n = 1_000_000
    order = np.random.default_rng(1).permutation(n)
    keys = pa.array([f"sdss:{266 + i // 640}-51602-{1 + i % 640}" for i in range(n)])
    table = pa.table({"spectrum_key": keys})
    start = time.process_time()
    rows = line_tables.rows_of_keys(table, pa.chunked_array([keys.take(pa.array(order))]))
    # 0.5 s on one core here; a loop over the rows takes as long for the keys alone.
    assert time.process_time() - start < 5
    np.testing.assert_array_equal(rows, order)
