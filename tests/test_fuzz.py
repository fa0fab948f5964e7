"""Damaged files, thousands of them, through whole ingests: no crash, no hang, no wrong number.

A case is a folder of survey files of which some are damaged at random. What is kept is compared
with what astropy and h5py read from the very same damaged files (`fuzz_reference`).
"""

import math
import re
import resource
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import fuzz_builders as build
import fuzz_reference as reference
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from fuzz_builders import Unit
from pipeline_builders import ingest_all, write_mock
from surveys_builders import SHARED, table_hdu

from spectra_scale.compute.place import Here
from spectra_scale.surveys.datasum import wrong_datasums
from spectra_scale.surveys.names import find_redshifts
from spectra_scale.surveys.reasons import Reason
from spectra_scale.verify import verify

SECONDS_A_CASE = 60  # a case takes half a second; what takes a hundred times as long hangs
MEGABYTES = 700  # growth of the whole process; a case needs a few tens


@dataclass
class Case:
    """A folder of survey files: damage by file name ('' for none), units that are whole."""

    folder: Path
    survey: str
    damage: dict[str, str] = field(default_factory=dict)
    whole: list[Unit] = field(default_factory=list)
    rows: list[dict] = field(default_factory=list)
    catalogue: Path | None = None
    n_rows: int = 0


# Cases ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pools(tmp_path_factory):
    """Whole files of both surveys to draw from, by hand, of the mock, and real ones if there."""
    return make_pools(tmp_path_factory.mktemp("mock"), every=8)


@pytest.fixture(scope="session")
def all_pools(tmp_path_factory):
    """The same with all real files."""
    return make_pools(tmp_path_factory.mktemp("mock"), every=1)


def make_pools(folder, every):
    # astropy takes 50 ms for the headers of a real file.
    mock = write_mock(
        folder / "mock", 14, 8, boss_fraction=0.4, fibers_legacy=10, fibers_boss=10, seed=3
    )
    sdss = [*build.made_specs(48), *build.made_sdssv(12), *build.made_plates(6)]
    sdss += [*build.made_mmu(4, "sdss"), *build.files_of(mock, "spec-*.fits")]
    desi = [*build.made_coadds(6), *build.made_mmu(3, "desi")]
    if SHARED.is_dir():
        sdss += build.files_of(SHARED / "sdss" / "spec-lite", "*.fits", every)
        sdss += build.files_of(SHARED / "sdss" / "spec-full", "*.fits", every)
        desi += build.real_coadds(SHARED / "desi")
    # Each reading of a tiled image starts a process: in CI test_bad_input has them.
    sdss += packed([*sdss[:3], *sdss[48:50], *(sdss[60:66] if every == 1 else ())])
    desi += packed(desi[: 4 if every == 1 else 0])
    return {"sdss": sdss, "desi": desi}


def packed(units):
    """The same units packed by fpack, if it is here, and by gzip in turn."""
    made = [build.packed_unit(unit, ("fz", "gz")[i % 2]) for i, unit in enumerate(units)]
    return [unit for unit in made if unit is not None]


def stem(unit):
    """What an undamaged unit is of, whether it is packed or not."""
    return next(iter(unit.files)).removesuffix(".gz").removesuffix(".fz").lower()


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


ODD_NAMES = ("copy{}.fits", "x{}/copy.fits", "{}.FITS", "copy{}.fits.gz", "copy{}.fit", "c{}.hdf5",
             "table{}.csv", "notes{}.txt", "spSpec-51909-0455-{}.fit", "spectra-main-dark-{}.fits",
             "copy{}.fits.fz", "copy{}.dat", "spec-9999-59999-{:04d}.fits")  # fmt: skip


def make_case(rng, folder, survey, pool, n_units):
    """A folder of `n_units` files of spectra, two thirds of them damaged, at least one whole."""
    case = Case(folder, survey)
    chosen = {stem(pool[i]): pool[i] for i in rng.permutation(len(pool))[:n_units]}
    units = list(chosen.values())
    others = [content for unit in units for content in unit.files.values()]
    for number, unit in enumerate(units):
        hurt = number > 0 and rng.random() < 0.75
        names = list(unit.files)
        which = {names[int(rng.integers(len(names)))]} if hurt else set()
        if hurt and rng.random() < 0.2:
            which = set(names)
        for name, content in unit.files.items():
            made = content, ""
            if name in which:
                made = build.damaged(rng, content, others[int(rng.integers(len(others)))])
            case.damage[name] = made[1]
            write(folder, name, made[0])
        if not which:
            case.whole.append(unit)
        case.rows += unit.rows
    _rename(rng, case)
    return case


def _rename(rng, case):
    """Two damaged files change names, and some files are there again under another."""
    hurt = [name for name, what in case.damage.items() if what]
    if len(hurt) > 1 and rng.random() < 0.3:
        a, b = (hurt[int(i)] for i in rng.permutation(len(hurt))[:2])
        contents = [(case.folder / name).read_bytes() for name in (b, a)]
        for name, content in zip((a, b), contents, strict=True):
            write(case.folder, name, content)
            case.damage[name] += "+named as another"
    for number in range(int(rng.integers(3))):
        if not hurt:
            return
        name = hurt[int(rng.integers(len(hurt)))]
        copy = ODD_NAMES[int(rng.integers(len(ODD_NAMES)))].format(number + 1)
        write(case.folder, copy, (case.folder / name).read_bytes())
        case.damage[copy] = f"copy of {name}"


def add_catalogue(rng, case):
    """A catalogue of the files, some of its rows wrong or there twice, in one of three formats."""
    rows = [dict(row) for row in case.rows]
    if not rows:
        return
    n_whole = sum(len(unit.rows) for unit in case.whole[:1])
    z_name, ids = "Z", ("PLATE", "MJD", "FIBERID") if case.survey == "sdss" else ("TARGETID",)
    for row in rows[n_whole:]:
        how = rng.random()
        if how < 0.15:
            row[z_name] = float(rng.choice([np.nan, -1.0, -2.5, np.inf, 1e30]))
        elif how < 0.25:
            wrong = int(rng.choice([-1, 0, -(2**31), 2**31 - 1, 77]))
            row[ids[int(rng.integers(len(ids)))]] = wrong
    for _ in range(int(rng.integers(3))):
        rows.append(dict(rows[int(rng.integers(len(rows)))]))
    case.n_rows, case.rows = len(rows), rows
    table = pa.Table.from_pylist(rows)
    kind = ("fits", "csv", "parquet")[int(rng.integers(3))]
    case.catalogue = case.folder.with_name(f"{case.folder.name}-catalogue.{kind}")
    if kind == "parquet":
        pq.write_table(table, case.catalogue)
    elif kind == "csv":
        pa_csv.write_csv(table, case.catalogue)
    else:
        columns = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
        table_hdu(columns).writeto(case.catalogue)


# Checks -----------------------------------------------------------------------------------------


def files_in(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def check_accounting(case, release):
    """Every file has a row, a line of the ledger, or is the redshifts of a file that has."""
    rows, ledger = release.catalogue.to_pylist(), release.ledger.to_pylist()
    counts = release.artifact.counts
    named = {row["source_file"] for row in rows} | {line["path"] for line in ledger} - {""}
    files = files_in(case.folder)
    assert named <= files
    partners = set()
    for name in files:
        found = find_redshifts(case.folder / name)
        if found is not None:
            partners.add(found.relative_to(case.folder).as_posix())
    assert files - named <= partners
    assert counts["files in"] == len(files)
    states = Counter(row["status"] for row in rows)
    assert counts["rows"] == len(rows) == states["kept"] + states["quarantined"]
    assert counts["kept"] == states["kept"]
    for row in rows:
        assert (row["status"] == "kept") == (row["reason"] == "")
        if row["reason"]:
            Reason(row["reason"])  # which raises for a code that is none
            assert row["message"]
    for line in ledger:
        Reason(line["reason"])
        assert line["message"]
        assert line["path"] or line["spectrum_key"] or line["kind"] == "row"
    assert len({row["spectrum_key"] for row in rows}) == len(rows)
    left_out = sum(line["kind"] == "row" for line in ledger)
    if case.catalogue is not None:
        assert len(rows) + left_out == case.n_rows == counts["rows in"]
    check_verified(case, release)
    return states


def _same(found, expected):
    """Whether a value of the catalogue is that of a file; NaN is NaN, text is stripped."""
    if isinstance(found, str):
        return found == str(expected).strip()
    if found is None or (isinstance(found, float) and math.isnan(found)):
        return not math.isfinite(float(expected)) or float(expected) < -9000
    return float(found) == float(expected) or found == np.float32(expected)


def check_verified(case, release):
    """Nothing is wrong with the release, and only damaged files contradict their own DATASUM."""
    problems = [check.problem for check in verify(release.path, Here(), "all") if check.problem]
    rows = release.catalogue.to_pylist()
    named = {row["source_file"] for row in rows}
    changed = {name for name in named if wrong_datasums(case.folder / name)}
    assert all(case.damage.get(name) for name in changed)
    # Files of which nothing was read are quarantined, and are not judged any further.
    certain = changed & {row["source_file"] for row in rows if row["status"] == "kept"}
    assert len(problems) <= 1
    assert bool(problems) or not certain
    if problems:
        said = re.search(r"(\d+) differences in .*?: (.*)", problems[0])
        told = re.findall(r"([^ ;]+): [^;]*? contradicts its DATASUM", said[2])
        assert len(certain) <= int(said[1]) <= len(changed)
        assert len(told) == min(int(said[1]), 3)
        assert set(told) <= changed


def check_spectra(case, release):
    """Kept spectra, their rows and their lines are what the damaged files say."""
    rows = release.catalogue.to_pylist()
    kept = [i for i, row in enumerate(rows) if row["status"] == "kept"]
    if not kept:
        return []
    spectra, lines = release.read(np.array(kept)), release.lines.to_pylist()
    wrong = []
    for number, i in enumerate(kept):
        row = rows[i]
        path, kind = case.folder / row["source_file"], row["source_format"]
        try:
            partner = find_redshifts(path) if case.catalogue is None else None
            said = reference.spectrum_of(kind, path, row["source_row"], partner)
        except Exception as error:  # noqa: BLE001 - whatever astropy raises, it is no spectrum
            wrong.append((row["source_file"], row["source_row"], [f"no reference: {error!r}"]))
            continue
        stored = [array[number] for array in (spectra.flux, spectra.ivar, spectra.mask_bits)]
        found = reference.differences(said, stored, spectra.first_pixel, kind)
        if case.catalogue is None:
            found += [
                f"{name} is {row[name]}, in the file {value}"
                for name, value in said.row.items()
                if not _same(row[name], value)
            ]
        found += _wrong_lines(said, lines[i])
        if found:
            wrong.append((row["source_file"], row["source_row"], found))
    return wrong


def _wrong_lines(said, lines):
    if said.lines is None:
        return []
    return [f"{name} is {lines[name]}, in the file {value}" for name, value in said.lines.items()
            if not (lines[name] == value or np.isclose(lines[name], value, rtol=1e-12, atol=0)
                    or (math.isnan(lines[name]) and math.isnan(value)))]  # fmt: skip


def check_whole(case, release):
    """Files that nobody damaged are kept, whatever lies beside them."""
    kept = {(row["source_file"], row["source_row"]) for row in release.catalogue.to_pylist()
            if row["status"] == "kept"}  # fmt: skip
    bad = {str(row["source_file"]): row["reason"] for row in release.catalogue.to_pylist()}
    told = {line["path"]: line for line in release.ledger.to_pylist()}
    lost = []
    for unit in case.whole:
        name = next(iter(unit.files))
        if case.catalogue is not None and unit is not case.whole[0]:
            continue
        if case.catalogue is not None and not unit.rows:
            continue
        if not any(file == name for file, _ in kept):
            lost.append((name, bad.get(name), told.get(name)))
    return lost


def run_case(rng, folder, survey, pool, n_units, *, catalogue=False):
    """Ingest one folder of damaged files, and check all that is promised."""
    case = make_case(rng, folder / "in", survey, pool, n_units)
    if catalogue:
        add_catalogue(rng, case)
    start = time.monotonic()
    release = ingest_all(folder / "out", case.folder, catalogue=case.catalogue, survey=survey)[-1]
    seconds = time.monotonic() - start
    states = check_accounting(case, release)
    wrong, lost = check_spectra(case, release), check_whole(case, release)
    assert not wrong, [(name, ident, case.damage.get(name), what) for name, ident, what in wrong]
    assert not lost, lost
    assert seconds < SECONDS_A_CASE
    ledger = sum(line["path"] != "" for line in release.ledger.to_pylist())
    n_damaged = sum(bool(what) for what in case.damage.values())
    return Counter(files=len(case.damage), damaged=n_damaged, kept=states["kept"],
                   quarantined=states["quarantined"], ledger=ledger)  # fmt: skip


def run_cases(seeds, folder, pools):
    """Cases of both surveys in turn, one in four with a catalogue; their counts together."""
    total = Counter()
    for seed in seeds:
        survey = "desi" if seed % 3 == 2 else "sdss"
        n_units = 6 if survey == "desi" else 14
        case = folder / str(seed)
        total += run_case(np.random.default_rng(seed), case, survey, pools[survey], n_units,
                          catalogue=seed % 4 == 3)  # fmt: skip
        shutil.rmtree(case)
    return total


def check_memory(before):
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES


# Tests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", range(6))
@pytest.mark.timeout(120)
def test_damaged_files_are_kept_as_they_are_or_told_and_cost_no_other(pools, tmp_path, part):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = run_cases(range(1000 + 8 * part, 1008 + 8 * part), tmp_path, pools)
    check_memory(before)
    # Were nothing kept, or everything, the checks would have nothing to look at.
    assert total["damaged"] > 40
    assert total["kept"] > total["damaged"] / 4
    assert total["ledger"] + total["quarantined"] > total["damaged"] / 4


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
def test_thousands_of_damaged_files_are_kept_as_they_are_or_told(pools, tmp_path, part):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = run_cases(range(10_000 + 50 * part, 10_050 + 50 * part), tmp_path, pools)
    check_memory(before)
    assert total["damaged"] > 300
