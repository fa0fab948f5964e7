"""Finding a survey's files: every one is in exactly one list."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from astropy.io import fits
from surveys_builders import (
    SHARED,
    boss_row,
    legacy_row,
    plate_hdus,
    row_hdu,
    table_hdu,
    write_spec,
    zbest_columns,
)

from spectra_scale.errors import UsageError
from spectra_scale.surveys.reasons import Reason
from spectra_scale.surveys.scan import scan

needs_real_files = pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is not here")


def names(files):
    return [file.relative for file in files]


def spectra(found, kind):
    return [each.file.relative for each in found.of(kind)]


def reasons(found):
    return {other.file.relative: str(other.reason) for other in found.others}


@pytest.fixture
def folder(tmp_path):
    """A folder with one of each kind of file that formats.md names."""
    root = tmp_path / "dr17"
    for below in ("lite/0266", "plates/4055/v5_7_0", "tables"):
        (root / below).mkdir(parents=True)
    write_spec(root / "lite" / "0266")
    write_spec(root, "1237652899686318136.fits")
    plate_hdus().writeto(root / "plates/4055/spPlate-4055-55359.fits")
    plate_hdus().writeto(root / "plates/4055/spPlate-4056-55360.fits")
    zbest = fits.HDUList([fits.PrimaryHDU(), table_hdu(zbest_columns(4))])
    zbest.writeto(root / "plates/4055/v5_7_0/spZbest-4055-55359.fits")
    zbest.writeto(root / "plates/spZbest-9999-55359.fits")
    for name, row in (("specObj-dr17.fits", legacy_row()), ("mine.fits", boss_row())):
        fits.HDUList([fits.PrimaryHDU(), row_hdu(row)]).writeto(root / "tables" / name)
    lines = {"plate": [1], "mjd": [2], "fiberid": [3]}
    for name in ("Hb_4861", "OIII_5006", "Ha_6562", "NII_6583"):
        lines |= {f"Flux_{name}": [1.0], f"Flux_{name}_Err": [1.0]}
    pa_csv.write_csv(pa.table(lines), root / "tables" / "portsmouth.csv")
    pa_csv.write_csv(pa.table({"a": [1]}), root / "tables" / "notes.csv")
    table_hdu({"wave": np.ones(3)}).writeto(root / "tables" / "template.fits")
    for name in ("README.md", "truth.parquet", "list.txt", "a.tsv", ".hidden", "meta.json"):
        (root / name).write_bytes(b"text")
    (root / "empty.fits").write_bytes(b"")
    (root / "page.fits").write_bytes(b"<html>")
    (root / "spec-112359-59000-27021598108.fits").write_bytes(b"whatever")
    (root / "spSpec-51909-0455-597.fit").write_bytes(b"whatever")
    (root / "coadd-main-dark-9144.fits").write_bytes(b"whatever")
    return root


def test_every_file_is_in_exactly_one_list(folder):
    found = scan(folder, "sdss")
    assert spectra(found, "spec") == [
        "1237652899686318136.fits", "lite/0266/spec-0266-51602-0001.fits",
        "spec-112359-59000-27021598108.fits",
    ]  # fmt: skip
    plates = [(p.file.relative, p.redshifts and p.redshifts.relative) for p in found.of("spplate")]
    assert plates == [
        ("plates/4055/spPlate-4055-55359.fits", "plates/4055/v5_7_0/spZbest-4055-55359.fits"),
        ("plates/4055/spPlate-4056-55360.fits", None),
    ]
    assert names(found.catalogues) == ["tables/mine.fits", "tables/specObj-dr17.fits"]
    assert names(found.line_catalogues) == ["tables/portsmouth.csv"]
    side = ("README.md", "truth.parquet", "list.txt", "a.tsv", ".hidden", "meta.json",
            "tables/notes.csv")  # fmt: skip
    assert reasons(found) == dict.fromkeys(side, "not_a_spectrum") | {
        "plates/spZbest-9999-55359.fits": "row_without_file",
        "tables/template.fits": "unknown_format",
        "empty.fits": "empty_file",
        "page.fits": "not_fits",
        "spSpec-51909-0455-597.fit": "dr7_spspec",
        "coadd-main-dark-9144.fits": "other_survey",
    }
    assert all(other.message for other in found.others)
    on_disk = [path for path in folder.rglob("*") if path.is_file()]
    assert found.n_files == len(on_disk)


def test_a_copy_of_the_folder_scans_alike(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    # Another order of creation, so another order of the file system.
    for path in sorted((p for p in folder.rglob("*") if p.is_file()), reverse=True):
        target = copy / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    one, other = scan(folder, "sdss"), scan(copy, "sdss")
    assert spectra(one, "spec") == spectra(other, "spec")
    assert names(one.catalogues) == names(other.catalogues)
    assert reasons(one) == reasons(other)


def test_several_folders_and_single_files_are_scanned_in_their_order(folder, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    path = write_spec(more, "spec-0001-50000-0001.fits")
    both = scan([path, folder], "sdss")
    assert both.spectra[0].file.path == path
    assert both.n_files == scan(folder, "sdss").n_files + 1


def test_one_release_is_of_one_survey(folder):
    with pytest.raises(UsageError, match=r"1 of DESI and \d of SDSS"):
        scan(folder)
    desi = scan(folder, "desi")
    assert [each.file.relative for each in desi.spectra] == ["coadd-main-dark-9144.fits"]
    assert list(reasons(desi).values()).count("other_survey") == 6  # 5 spectra, 1 spZbest
    assert desi.n_files == scan(folder, "sdss").n_files
    (folder / "coadd-main-dark-9144.fits").unlink()
    assert scan(folder).survey == "sdss"
    with pytest.raises(UsageError, match="no spectra of DESI, but 5"):
        scan(folder, "desi")


def test_coadds_come_with_their_redshifts(tmp_path):
    for name in ("coadd-main-dark-9144.fits", "redrock-main-dark-9144.fits",
                 "redrock-main-bright-9144.fits", "coadd-4-80613-thru20210324.fits",
                 "zbest-4-80613-thru20210324.fits", "spectra-main-dark-9144.fits"):  # fmt: skip
        (tmp_path / name).write_bytes(b"")
    found = scan(tmp_path)
    assert [(c.file.relative, c.redshifts.relative) for c in found.of("coadd")] == [
        ("coadd-4-80613-thru20210324.fits", "zbest-4-80613-thru20210324.fits"),
        ("coadd-main-dark-9144.fits", "redrock-main-dark-9144.fits"),
    ]
    assert reasons(found) == {
        "redrock-main-bright-9144.fits": "row_without_file",
        "spectra-main-dark-9144.fits": "not_coadded",
    }


def test_what_cannot_be_opened_safely_is_not_opened(folder):
    os.mkfifo(folder / "spec-0266-51602-0003.fits")
    (folder / "spec-0266-51602-0004.fits").symlink_to("/dev/zero")
    (folder / "spec-0266-51602-0005.fits").symlink_to(folder / "nowhere")
    found = reasons(scan(folder, "sdss"))
    for fiber in (3, 4, 5):
        assert found[f"spec-0266-51602-000{fiber}.fits"] == "unreadable"


def test_links_that_lead_back_up_end(folder):
    (folder / "lite" / "loop").symlink_to(folder, target_is_directory=True)
    assert len(scan(folder, "sdss").of("spec")) == 3


def test_an_oddly_named_damaged_file_is_a_line_of_the_ledger(folder):
    content = (folder / "1237652899686318136.fits").read_bytes()
    (folder / "odd.fits").write_bytes(content[:4000])
    found = scan(folder, "sdss")
    assert reasons(found)["odd.fits"] in {Reason.UNKNOWN_FORMAT, Reason.TRUNCATED}


def test_a_damaged_file_with_the_name_of_a_spectrum_is_left_to_the_reader(folder):
    (folder / "spec-0266-51602-0002.fits").write_bytes(b"")
    assert "spec-0266-51602-0002.fits" in spectra(scan(folder, "sdss"), "spec")


def test_a_folder_that_is_absent_or_has_no_spectra_is_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        scan(tmp_path / "absent")
    with pytest.raises(UsageError, match="no spectra"):
        scan(tmp_path)
    (tmp_path / "README").write_text("hello")
    with pytest.raises(UsageError, match="README"):
        scan([tmp_path])


@needs_real_files
def test_the_real_folder_is_accounted_for():
    found = scan(SHARED / "sdss")
    assert (len(found.of("spec")), len(found.of("spplate")), found.others) == (267, 1, ())
    odd = {"spec-full/Iras23060+0505SP1.fits", "spec-lite/1237652899686318136.fits"}
    assert odd <= set(spectra(found, "spec"))
    malformed = scan(SHARED / "malformed", "sdss")
    assert malformed.n_files == 15
    assert len(malformed.of("spec")) == 9
    assert sorted(reasons(malformed).values()) == [
        "dr7_spspec", "dr7_spspec", "dr7_spspec", "not_coadded", "other_survey", "other_survey",
    ]  # fmt: skip
    # Coadds of another name are told by what is in them.
    assert len(scan(SHARED / "malformed", "desi").of("coadd")) == 2
