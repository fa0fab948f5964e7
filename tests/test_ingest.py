"""Ingest: from survey files to a release, with every file and every row accounted for."""

import numpy as np
import pytest
from astropy.io import fits
from pipeline_builders import (
    DyingPlace,
    Killed,
    digests,
    ingest_release,
    keys_of,
    label_releases,
    manifest,
    write_mock,
)
from surveys_builders import (
    boss_row,
    coadd_columns,
    legacy_row,
    line_columns,
    plate_hdus,
    spec_hdus,
    table_hdu,
    write_spec,
    zbest_columns,
)

from spectra_scale.compute.place import Here
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.mock.release import CAS_FILE, CATALOGUE_FILE, LINES_FILE
from spectra_scale.store.arrays import check_shards
from spectra_scale.store.objects import column
from spectra_scale.surveys.sdss import SDSS_FIRST_PIXEL, SDSS_N_PIXELS
from spectra_scale.verify import verify

N, N_SPEC = 120, 24


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_mock(tmp_path_factory.mktemp("ingest") / "mock", N, N_SPEC)


@pytest.fixture(scope="module")
def release(source, tmp_path_factory):
    """The mock release with its catalogue, ingested one task after the other."""
    out = tmp_path_factory.mktemp("ingested") / "mock"
    return ingest_release(out, source, catalogue=source / CATALOGUE_FILE)


def accounting_closes(release, folders):
    """Every file of the folders is a row's, a plate's redshifts or a ledger line; rows add up."""
    counts, ledger = release.artifact.counts, release.ledger
    files = {p.relative_to(root).as_posix() for root in folders for p in root.rglob("*")
             if p.is_file()}  # fmt: skip
    rows = set(release.catalogue["source_file"].to_pylist())
    others = {path for path in ledger["path"].to_pylist() if path}
    redshifts = {
        name
        for name in files
        for plate in rows | others
        if "spPlate" in plate
        and name.rpartition("/")[2].replace("spZbest", "spPlate") == plate.rpartition("/")[2]
    }
    assert files == rows | others | redshifts
    assert counts["files in"] == len(files)
    assert counts["kept"] + counts["quarantined"] == counts["rows"] == release.n_rows
    assert set(ledger["kind"].to_pylist()) <= {"file", "row", "fibre"}
    listed = sum(counts["by reason"].values())
    assert listed == ledger.num_rows + counts["quarantined"]
    assert [c.problem for c in verify(release.path, Here()) if c.problem] == []


# A release ---------------------------------------------------------------------------------------


def test_every_row_and_file_of_a_release_is_accounted_for(source, release):
    accounting_closes(release, [source])
    counts = release.artifact.counts
    assert (counts["rows in"], counts["rows"], counts["kept"]) == (N, N, N)
    # What is neither: the catalogue, both line tables and the mock's own two files.
    assert sorted(release.ledger["path"].to_pylist()) == sorted(
        [CATALOGUE_FILE, LINES_FILE, CAS_FILE, "mock.json", "truth.parquet"]
    )
    assert set(release.ledger["reason"].to_pylist()) == {"not_a_spectrum"}


def test_the_rows_are_the_catalogues_rows(source, release):
    with fits.open(source / CATALOGUE_FILE) as hdus:
        table = hdus[1].data
        theirs = {
            f"sdss:{p}-{m}-{f}": (z, w, ra, c.strip())
            for p, m, f, z, w, ra, c in zip(
                table["PLATE"], table["MJD"], table["FIBERID"], table["Z"], table["ZWARNING"],
                table["PLUG_RA"], table["CLASS"], strict=True,
            )
        }  # fmt: skip
    names = ("spectrum_key", "z", "zwarning", "ra", "class")
    ours = zip(*(column(release.catalogue, name).tolist() for name in names), strict=True)
    found = {key: rest for key, *rest in ours}
    assert set(found) == set(theirs)
    for key, (z, warning, ra, kind) in found.items():
        assert (z, warning, ra, kind) == theirs[key]


def pixels_of_spec(path):
    """Native pixels of a spec file, from loglam by rounding (formats.md §0.2)."""
    with fits.open(path) as hdus:
        coadd = hdus[1].data
        k = np.rint(np.asarray(coadd["loglam"], "f8") * 1e4).astype(int)
        return k, [np.array(coadd[n]) for n in ("flux", "ivar", "and_mask")]


def pixels_of_plate(path, fiber):
    """Native pixels of a fibre of a spPlate file, from COEFF0 (formats.md A2)."""
    with fits.open(path) as hdus:
        k = round(hdus[0].header["COEFF0"] * 1e4) + np.arange(hdus[0].header["NAXIS1"])
        return k, [np.array(hdus[i].data[fiber - 1]) for i in (0, 1, 2)]


def test_native_arrays_are_the_files_pixels_to_the_bit(source, release):
    spectra = release.read(slice(0, release.n_rows))
    files = column(release.catalogue, "source_file")
    fibers = column(release.catalogue, "source_row")
    assert {bool(f) for f in fibers} == {True, False}  # plates and single files
    for row, (name, fiber) in enumerate(zip(files, fibers, strict=True)):
        path = source / name
        k, columns = pixels_of_plate(path, fiber) if fiber else pixels_of_spec(path)
        at = k - SDSS_FIRST_PIXEL
        inside = (at >= 0) & (at < SDSS_N_PIXELS)
        ours = (spectra.flux[row], spectra.ivar[row], spectra.mask_bits[row].view(np.int32))
        for mine, theirs in zip(ours, columns, strict=True):
            np.testing.assert_array_equal(mine[at[inside]], theirs[inside], err_msg=name)
            rest = np.delete(mine, at[inside])
            assert not rest.any()
        assert (np.diff(k) == 1).all()


def test_single_files_bring_their_own_lines_and_plates_none(source, release):
    lines, fibers = release.lines, column(release.catalogue, "source_row")
    measured = column(lines, "measured")
    assert not measured[fibers > 0].any()
    assert measured[fibers == 0].all()
    row = int(np.flatnonzero(fibers == 0)[0])
    with fits.open(source / release.catalogue["source_file"][row].as_py()) as hdus:
        table = hdus[3].data
        at = [name.strip() for name in table["LINENAME"]].index("H_beta")
        expected = float(table["LINEAREA"][at])
    assert lines["hbeta_flux"][row].as_py() == expected


def test_rows_from_the_files_themselves_have_the_same_spectra(source, release, tmp_path):
    own = ingest_release(tmp_path / "own", source)
    accounting_closes(own, [source])
    mine, theirs = keys_of(own.catalogue), keys_of(release.catalogue)
    # Sky and standard-star fibres are no rows; each is in the ledger.
    sky = {r["spectrum_key"] for r in own.ledger.to_pylist() if r["reason"] == "sky_fibre"}
    targets = {}
    for path in source.rglob("spZbest*"):
        with fits.open(path) as hdus:
            table = hdus[1].data
            for plate, mjd, fiber, kind in zip(
                table["PLATE"], table["MJD"], table["FIBERID"], table["OBJTYPE"], strict=True
            ):
                targets[f"sdss:{plate}-{mjd}-{fiber}"] = kind.strip()
    assert sky == {k for k, kind in targets.items() if kind in ("SKY", "SPECTROPHOTO_STD")}
    assert mine == [key for key in theirs if key not in sky]
    rows = np.array([theirs.index(key) for key in mine])
    ours, others = own.read(slice(0, len(mine))), release.read(rows)
    for name in ("flux", "ivar", "mask_bits"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(others, name))
    for name in ("z", "zwarning", "class", "subclass", "ra", "dec", "plate", "mjd", "fiber"):
        assert own.catalogue[name].equals(release.catalogue[name].take(rows)), name


def test_every_place_makes_the_same_bytes(source, executor, tmp_path):
    # Without a catalogue, so that tasks find the rows as well as the spectra.
    there, here = (
        ingest_release(tmp_path / name, source, place=place)
        for name, place in (("there", executor), ("here", Here()))
    )
    assert digests(there.path) == digests(here.path)
    assert there.n_rows > N - N_SPEC


@pytest.mark.parametrize("after", [0, 1])
def test_an_ingest_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    source, release, tmp_path, after
):
    catalogue = source / CATALOGUE_FILE
    with pytest.raises(Killed):
        ingest_release(tmp_path / "r", source, catalogue=catalogue, place=DyingPlace(after))
    assert not (tmp_path / "r" / "manifest.json").exists()
    place = DyingPlace(2)  # two shards: what is done is only counted
    found = ingest_release(tmp_path / "r", source, catalogue=catalogue, place=place)
    assert digests(found.path) == digests(release.path)
    assert not (found.path / "parts").exists()


def test_a_finished_release_is_not_read_again(source, release):
    catalogue = source / CATALOGUE_FILE
    before = digests(release.path, without=())
    again = ingest_release(release.path, source, catalogue=catalogue, place=DyingPlace(0))
    assert digests(again.path, without=()) == before


def test_a_limit_takes_the_first_rows_and_says_how_many_it_left(source, release, tmp_path):
    found = ingest_release(tmp_path / "r", source, catalogue=source / CATALOGUE_FILE, limit=50)
    assert found.artifact.counts["rows beyond --limit"] == N - 50
    assert keys_of(found.catalogue) == keys_of(release.catalogue)[:50]
    np.testing.assert_array_equal(found.read(slice(0, 50)).flux, release.read(slice(0, 50)).flux)
    accounting = [c.problem for c in verify(found.path, Here()) if c.problem]
    assert accounting == []


# Bad input ---------------------------------------------------------------------------------------


def name_of(fiber, plate=266, mjd=51602):
    return f"spec-{plate:04d}-{mjd}-{fiber:04d}.fits"


def good(folder, fiber, **row):
    write_spec(folder, name_of(fiber), row=legacy_row(FIBERID=np.int32(fiber), **row),
               coadd=coadd_columns(seed=fiber))  # fmt: skip


def spoil(folder):
    """Files with one fault each, by the reason that must be given for it."""
    good(folder, 11)
    whole = (folder / name_of(11)).read_bytes()
    (folder / name_of(11)).write_bytes(whole[:9000])
    (folder / name_of(12)).write_bytes(b"")
    (folder / name_of(13)).write_text("<html>404 not found</html>" * 200)
    hdus = spec_hdus(row=legacy_row(FIBERID=np.int32(14)))
    del hdus[1]
    hdus.writeto(folder / name_of(14))
    dead = coadd_columns() | {"ivar": np.zeros(50, "f4")}
    write_spec(folder, name_of(15), row=legacy_row(FIBERID=np.int32(15)), coadd=dead)
    write_spec(folder, name_of(16), row=legacy_row(FIBERID=np.int32(99)))
    write_spec(folder, name_of(17), row=legacy_row(FIBERID=np.int32(17), Z=np.float32("nan")))
    low = coadd_columns(first_pixel=SDSS_FIRST_PIXEL - 20)
    write_spec(folder, name_of(18), row=legacy_row(FIBERID=np.int32(18)), coadd=low)
    (folder / "spSpec-51909-0455-597.fit").write_bytes(whole)
    (folder / "notes.txt").write_text("seeing was bad")
    return {
        name_of(11): "truncated",
        name_of(12): "empty_file",
        name_of(13): "not_fits",
        name_of(14): "missing_hdu",
        name_of(15): "all_ivar_zero",
        name_of(16): "identity_mismatch",
        name_of(17): "bad_redshift",
        name_of(18): "outside_native_grid",
        "spSpec-51909-0455-597.fit": "dr7_spspec",
        "notes.txt": "not_a_spectrum",
    }


def reasons(release):
    """Reason of everything that is not a kept spectrum, by file."""
    ledger = {r["path"]: r["reason"] for r in release.ledger.to_pylist()}
    rows = release.catalogue.to_pylist()
    bad = {r["source_file"]: r["reason"] for r in rows if r["status"] == "quarantined"}
    assert not set(ledger) & set(bad)
    return ledger | bad


def test_malformed_files_stop_nothing_and_each_has_its_reason(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for fiber in (1, 2):
        good(folder, fiber)
    expected = spoil(folder)
    release = ingest_release(tmp_path / "r", folder, "made")
    accounting_closes(release, [folder])
    assert reasons(release) == expected
    kept = [r["source_file"] for r in release.catalogue.to_pylist() if r["status"] == "kept"]
    assert kept == [name_of(1), name_of(2)]
    for record in release.ledger.to_pylist():
        assert record["message"]


def catalogue_of(path, fibers, **changes):
    """A specObj catalogue of some fibres of plate 266."""
    columns = zbest_columns(len(fibers), 266, 51602, **changes)
    columns["FIBERID"] = np.array(fibers, "i4")
    columns["OBJTYPE"] = np.array(["GALAXY".ljust(16)] * len(fibers))
    table_hdu(columns).writeto(path)
    return path


def test_rows_of_a_catalogue_whose_file_is_bad_stay_without_a_spectrum(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for fiber in (1, 2):
        good(folder, fiber)
    spoil(folder)
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2, 11, 12, 13, 14, 15, 16, 18, 40])
    release = ingest_release(tmp_path / "r", folder, "made", catalogue)
    accounting_closes(release, [folder])
    rows = {r["fiber"]: r for r in release.catalogue.to_pylist()}
    assert {f: r["reason"] for f, r in rows.items()} == {
        1: "", 2: "", 11: "truncated", 12: "empty_file", 13: "not_fits", 14: "missing_hdu",
        15: "all_ivar_zero", 16: "identity_mismatch", 18: "outside_native_grid",
    }  # fmt: skip
    spectra = release.read(slice(0, release.n_rows))
    for row, fiber in enumerate(column(release.catalogue, "fiber")):
        empty = fiber not in (1, 2)
        assert (rows[fiber]["status"] == "quarantined") == empty
        for values in (spectra.flux[row], spectra.ivar[row], spectra.mask_bits[row]):
            assert values.any() != empty
        if empty:
            assert rows[fiber]["message"]
    ledger = {(r["path"], r["spectrum_key"]): r["reason"] for r in release.ledger.to_pylist()}
    # A row without a file, and a file without a row.
    assert ledger["", "sdss:266-51602-40"] == "row_without_file"
    assert ledger[name_of(17), "sdss:266-51602-17"] == "file_without_row"


def test_a_bad_redshift_in_the_catalogue_costs_no_spectrum(tmp_path):
    # A release is faithful: redshifts are revised, and the cut on them is that of prepare.
    folder = tmp_path / "in"
    folder.mkdir()
    for fiber in (1, 2, 3):
        good(folder, fiber)
    z = np.array([0.1, np.nan, -2.0], "f4")
    catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2, 3], Z=z)
    release = ingest_release(tmp_path / "r", folder, "made", catalogue)
    found = release.catalogue.to_pylist()
    assert [r["status"] for r in found] == ["kept", "kept", "kept"]
    assert np.isnan(found[1]["z"])
    assert release.read(slice(0, 3)).ivar.any(axis=1).all()


def test_the_same_observation_twice_is_taken_once(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        good(tmp_path / "in" / name, 1)
    good(tmp_path / "in" / "a", 2)
    with_catalogue = catalogue_of(tmp_path / "cat.fits", [1, 2, 1])
    for out, catalogue, n_in in (("own", None, 3), ("cat", with_catalogue, 3)):
        release = ingest_release(tmp_path / out, tmp_path / "in", "made", catalogue)
        accounting_closes(release, [tmp_path / "in"])
        assert release.catalogue["source_file"].to_pylist() == [
            f"a/{name_of(1)}", f"a/{name_of(2)}",
        ]  # fmt: skip
        assert release.artifact.counts["rows in"] == n_in
        duplicates = [r for r in release.ledger.to_pylist() if r["reason"] == "duplicate"]
        assert f"b/{name_of(1)}" in {r["path"] for r in duplicates}
        assert f"a/{name_of(1)}" in duplicates[0]["message"]


def test_two_source_folders_are_told_apart(tmp_path):
    for name, fiber in (("x", 1), ("y", 2)):
        (tmp_path / name).mkdir()
        good(tmp_path / name, fiber)
    release = ingest_release(tmp_path / "r", [tmp_path / "x", tmp_path / "y"], "made")
    # The first folder's files keep their names when another is added.
    assert release.catalogue["source_file"].to_pylist() == [f"1:{name_of(2)}", name_of(1)]
    spectra = release.read(slice(0, 2))
    for row, (name, fiber) in enumerate((("y", 2), ("x", 1))):
        k, (flux, _, _) = pixels_of_spec(tmp_path / name / name_of(fiber))
        np.testing.assert_array_equal(spectra.flux[row, k - SDSS_FIRST_PIXEL], flux)


def write_plate(folder, n_fibers=4, *, redshifts=True, **hdus):
    folder.mkdir(exist_ok=True)
    plate_hdus(n_fibers, **hdus).writeto(folder / "spPlate-4055-55359.fits")
    if redshifts:
        table = table_hdu(zbest_columns(n_fibers))
        table.writeto(folder / "spZbest-4055-55359.fits")


def test_a_fibre_that_the_plate_lacks_costs_its_own_row_and_no_other(tmp_path):
    write_plate(tmp_path / "in")
    columns = zbest_columns(3) | {"FIBERID": np.array([2, 3, 77], "i4")}
    table_hdu(columns).writeto(tmp_path / "cat.fits")
    release = ingest_release(tmp_path / "r", tmp_path / "in", "made", tmp_path / "cat.fits")
    accounting_closes(release, [tmp_path / "in"])
    rows = release.catalogue.to_pylist()
    assert [(r["fiber"], r["reason"]) for r in rows] == [
        (2, ""), (3, ""), (77, "row_without_fibre"),
    ]  # fmt: skip
    spectra = release.read(slice(0, 3))
    for row, fiber in ((0, 2), (1, 3)):
        k, (flux, ivar, _) = pixels_of_plate(tmp_path / "in" / "spPlate-4055-55359.fits", fiber)
        np.testing.assert_array_equal(spectra.flux[row, k - SDSS_FIRST_PIXEL], flux)
        np.testing.assert_array_equal(spectra.ivar[row, k - SDSS_FIRST_PIXEL], ivar)
    assert not spectra.ivar[2].any()


def test_a_plate_without_redshifts_is_a_file_without_rows(tmp_path):
    write_plate(tmp_path / "in", redshifts=False)
    good(tmp_path / "in", 1)
    release = ingest_release(tmp_path / "r", tmp_path / "in", "made")
    accounting_closes(release, [tmp_path / "in"])
    assert reasons(release) == {"spPlate-4055-55359.fits": "file_without_row"}


def test_a_cut_plate_quarantines_its_rows_and_leaves_other_files_alone(tmp_path):
    write_plate(tmp_path / "in")
    path = tmp_path / "in" / "spPlate-4055-55359.fits"
    path.write_bytes(path.read_bytes()[: 2880 * 3])
    columns = zbest_columns(2)
    columns["PLATE"] = np.array([4055, 266], "i4")
    columns["MJD"] = np.array([55359, 51602], "i4")
    columns["FIBERID"] = np.array([2, 1], "i4")
    table_hdu(columns).writeto(tmp_path / "cat.fits")
    good(tmp_path / "in", 1)
    release = ingest_release(tmp_path / "r", tmp_path / "in", "made", tmp_path / "cat.fits")
    found = {r["plate"]: (r["status"], r["reason"]) for r in release.catalogue.to_pylist()}
    assert found == {4055: ("quarantined", "truncated"), 266: ("kept", "")}


def test_nan_in_a_file_is_a_missing_pixel_and_counted(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    coadd = coadd_columns()
    coadd["flux"][3], coadd["ivar"][7], coadd["ivar"][9] = np.nan, np.inf, -1
    write_spec(folder, coadd=coadd, row=boss_row(), name="spec-3606-55182-0679.fits")
    release = ingest_release(tmp_path / "r", folder, "made")
    ivar = release.read(slice(0, 1)).ivar[0]
    at = 35800 - SDSS_FIRST_PIXEL
    assert not ivar[at + np.array([3, 7, 9])].any()
    assert np.count_nonzero(ivar) == 47
    assert np.isfinite(ivar).all()
    assert release.catalogue["n_repaired"].to_pylist() == [3]


def test_a_folder_without_spectra_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("nothing here")
    with pytest.raises(UsageError, match=r"found no spectra.*readme\.txt.*Check the path"):
        ingest_release(tmp_path / "r", tmp_path / "in")
    with pytest.raises(UsageError, match="does not exist"):
        ingest_release(tmp_path / "r", tmp_path / "none")
    assert not (tmp_path / "r").exists()


def test_a_release_without_one_usable_row_does_not_commit(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name_of(1)).write_bytes(b"")
    (folder / name_of(2)).write_text("not fits at all")
    with pytest.raises(
        SpectraScaleError, match=r"no spectrum could be used.*empty_file 1.*not_fit"
    ):
        ingest_release(tmp_path / "r", folder)
    assert not (tmp_path / "r" / "manifest.json").exists()


# Labels ------------------------------------------------------------------------------------------


def test_the_first_line_table_that_has_an_object_wins(source, release, tmp_path):
    plain = label_releases(tmp_path / "a", [release], [source / LINES_FILE])
    with fits.open(source / LINES_FILE) as hdus:
        hdus[1].data["FLUX"][:] = 0
        hdus.writeto(tmp_path / "zero.fits")
    first = label_releases(
        tmp_path / "b", [release], [source / LINES_FILE, tmp_path / "zero.fits"]
    )
    second = label_releases(
        tmp_path / "c", [release], [tmp_path / "zero.fits", source / LINES_FILE]
    )
    tables = [digests(made.path / "objects") for made in (plain, first, second)]
    assert tables[0] == tables[1] != tables[2]
    assert plain.counts["star-forming"] > 0 == second.counts["star-forming"]
    assert sum(v for k, v in plain.counts.items() if k != "rows" and "EW" not in k) == N


def test_without_a_line_table_labels_rest_on_the_files_own_lines(release, tmp_path):
    made = label_releases(tmp_path / "a", [release])
    broad = [("BROADLINE" in s) for s in release.catalogue["subclass"].to_pylist()]
    measured = column(release.lines, "measured")
    assert made.counts["N/A"] == int(np.sum(~measured & ~np.array(broad)))
    assert made.counts["broad-line"] == sum(broad) > 0


def test_a_line_table_that_is_not_there_is_named(release, tmp_path):
    with pytest.raises(UsageError, match=r"\[label\] lines: found no file .*none\.fits"):
        label_releases(tmp_path / "a", [release], [tmp_path / "none.fits"])


def test_labels_of_one_release_do_not_depend_on_the_others(source, release, tmp_path):
    other = ingest_release(tmp_path / "r2", source, "newer", limit=30)
    alone = label_releases(tmp_path / "a", [release], [source / LINES_FILE])
    both = label_releases(tmp_path / "b", [release, other], [source / LINES_FILE])
    name = "mock.parquet"
    assert (alone.path / "objects" / name).read_bytes() == (
        both.path / "objects" / name
    ).read_bytes()
    assert len(list((both.path / "objects").iterdir())) == 2


# Real files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_release(real_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "r"
    return ingest_release(
        out, [real_data / "sdss", real_data / "malformed"], "real", survey="sdss"
    )


def test_every_real_file_is_accounted_for_and_malformed_ones_stop_nothing(real_data, real_release):
    counts, ledger = real_release.artifact.counts, real_release.ledger
    files = {
        f"{'1:' * i}{p.relative_to(root).as_posix()}"
        for i, root in enumerate((real_data / "sdss", real_data / "malformed"))
        for p in root.rglob("*")
        if p.is_file()
    }
    rows = set(real_release.catalogue["source_file"].to_pylist())
    named = {path for path in ledger["path"].to_pylist() if path}
    assert rows | named == files
    assert counts["files in"] == len(files) == 262 + 5 + 1 + 15
    assert not rows & named
    bad = reasons(real_release)
    assert {path: bad[path] for path in bad if path.startswith("1:")} == {
        "1:sdss/spec-0269-51581-0003.fits": "all_ivar_zero",
        "1:sdss-dr7-spSpec/spDR2-008.fit": "dr7_spspec",
        "1:sdss-dr7-spSpec/spSpec-51909-0455-597.fit": "dr7_spspec",
        "1:sdss-dr7-spSpec/spSpec-52591-1070-072.fit": "dr7_spspec",
        "1:desi/spectra-main-dark-9144.fits": "not_coadded",
        "1:desi/missing_b_color.fits": "other_survey",
        "1:desi/missing_scores.fits": "other_survey",
    }
    # The other eight SDSS files there are whole but cut short: spectra like any other.
    assert sum(path.startswith("1:") for path in rows) == 8
    # The real plate file has flux alone, and no redshifts beside it.
    assert bad["spplate/spPlate-4055-55359-0020.fits"] == "file_without_row"
    assert [c.problem for c in verify(real_release.path, Here()) if c.problem] == []


def test_137_real_spectra_pass_the_papers_redshift_zwarning_and_class_cuts(real_release):
    rows = [
        r for r in real_release.catalogue.to_pylist()
        if r["source_file"].startswith(("spec-lite", "spec-full")) and r["status"] == "kept"
    ]  # fmt: skip
    passing = [
        r for r in rows
        if 0.05 <= r["z"] <= 0.36 and r["zwarning"] == 0 and r["class"] in ("GALAXY", "QSO")
    ]  # fmt: skip
    kinds = [r["class"] for r in passing]
    assert (len(passing), kinds.count("GALAXY"), kinds.count("QSO")) == (137, 96, 41)
    assert sum("spec-full" in r["source_file"] for r in passing) == 6


def test_real_spectra_are_on_disk_as_astropy_reads_them(real_data, real_release):
    roots = (real_data / "sdss", real_data / "malformed")
    catalogue = real_release.catalogue.to_pylist()
    rows = [i for i, r in enumerate(catalogue) if r["status"] == "kept"][::12]
    for row in rows:
        name = catalogue[row]["source_file"]
        root = roots[name.startswith("1:")]
        k, (flux, ivar, _) = pixels_of_spec(root / name.removeprefix("1:"))
        at = k - SDSS_FIRST_PIXEL
        good = (ivar > 0) & np.isfinite(flux) & np.isfinite(ivar)
        mine = real_release.read(slice(row, row + 1))
        np.testing.assert_array_equal(mine.flux[0][at[good]], flux[good], err_msg=name)
        np.testing.assert_array_equal(mine.ivar[0][at[good]], ivar[good], err_msg=name)
        assert np.count_nonzero(mine.ivar[0]) == np.count_nonzero(good)


def test_shards_of_a_release_are_listed_with_their_rows(release):
    listed = manifest(release.path)["files"]
    assert {"catalogue.parquet", "lines.parquet", "ledger.parquet", "shards.parquet"} <= set(
        listed
    )
    # 120 rows in shards of 64: two of each of the three arrays.
    assert check_shards(release.arrays, release.path / "shards.parquet") == 6
    assert line_columns()["LINENAME"][1] == "H_beta"
