"""Settings of the stages up to the sample: mock, releases, ingest, labels, prepare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from spectra_scale.config.base import Fraction, Name, Positive, Settings


class MockSection(Settings):
    """`[mock]`: a release of known truth, written as survey files before anything else."""

    path: Path = Field(description="folder the survey files are written to")
    n_spectra: Positive = Field(5000, description="objects in the release, all classes together")
    n_spec_files: int = Field(200, ge=0, description="of these, written as single spec files")
    n_full_files: int = Field(
        0, ge=0, description="of the single spec files, written with the HDUs of the exposures"
    )
    boss_fraction: Fraction = Field(0.25, description="share observed with the BOSS spectrograph")
    desi_fraction: Fraction = Field(
        0.0, description="share observed with DESI, in healpixels; the rest are legacy spectra"
    )
    sdssv_fraction: Fraction = Field(
        0.0, description="share of SDSS-V: the BOSS spectrograph, one file for each spectrum"
    )
    sdssv_release: Literal["dr18", "dr19", "dr20"] = Field(
        "dr19", description="whose file names and columns the SDSS-V spectra have"
    )
    seed: int = Field(1, ge=0, description="seed of the release; same seed, same files")
    class_fractions: dict[str, float] | None = Field(
        None, description="shares of the kinds of objects, of sum 1; none: the paper's"
    )
    plates: tuple[int, ...] | None = Field(
        None, description="write these plates of the release only; none: all"
    )
    healpix: tuple[int, ...] | None = Field(
        None, description="write these healpixels (nside 64, nested) only; none: all"
    )


class ReleaseSection(Settings):
    """One `[[release]]`: the files of a survey release, ingested once and then immutable.

    Files that come later into the same folders become revisions of it, NAME.1, NAME.2 ...
    """

    name: Name = Field(description="name of the release, for instance dr17")
    source: tuple[Path, ...] = Field((), description="folders with the survey's files")
    catalogue: Path | None = Field(
        None,
        description="specObj, spAll, CAS, zall-pix or Parquet table; none: rows from the files' "
        "own tables",
    )
    survey: Literal["auto", "sdss", "desi"] = Field(
        "auto",
        description="whose spectra are taken: SDSS with all its phases, or DESI; auto: those that "
        "are there, if they are of one of them",
    )
    path: Path | None = Field(
        None, description="where the release is stored; default OUT/releases/NAME"
    )

    @model_validator(mode="after")
    def _no_revision(self) -> ReleaseSection:
        if self.source and re.search(r"\.\d+$", self.name):
            msg = f"found name = {self.name!r}: names with a number after a dot are of revisions"
            raise ValueError(msg)
        return self


class IngestSection(Settings):
    """`[ingest]`: how the releases of a job are taken in."""

    copy_spectra: bool = Field(
        True,
        alias="copy",
        description="store the native spectra; false: catalogue and locators only, spectra are "
        "read from the survey's own files when needed",
    )
    z_min: float | None = Field(
        None, description="rows of a lower redshift are dropped; none: no such cut"
    )
    z_max: float | None = Field(
        None, description="rows of a higher redshift are dropped; none: no such cut"
    )
    classes: tuple[Literal["GALAXY", "QSO", "STAR"], ...] = Field(
        (), description="rows of other pipeline classes are dropped; () keeps all"
    )
    zwarning_zero: bool = Field(False, description="rows with any ZWARNING bit are dropped")

    @model_validator(mode="after")
    def _ordered(self) -> IngestSection:
        low, high = self.z_min, self.z_max
        if low is not None and high is not None and low > high:
            msg = f"need z_min <= z_max, found z_min = {low}, z_max = {high}"
            raise ValueError(msg)
        return self


class LabelSection(Settings):
    """`[label]`: line measurements joined to the releases (science.md §5)."""

    lines: tuple[Path, ...] = Field(
        (),
        description="Portsmouth, CAS, MPA-JHU or FastSpecFit line tables, the first that has an "
        "object wins; "
        "none: the pipeline's own line fits (SPZLINE) stored with the release",
    )


class PrepareSection(Settings):
    """`[prepare]`: rest frame, selection and split (science.md §1-§4)."""

    preset: Literal["conserve", "reference"] = Field(
        "conserve", description="conserve: exact flux-conserving; reference: as the paper's own"
    )
    mask: Literal["auto", "strict", "brightsky", "paper"] = Field(
        "auto",
        description="which SPPIXMASK bits make a pixel missing; auto: strict with conserve, paper "
        "(any bit) with reference",
    )
    n_pixels: Positive = Field(1000, description="pixels of the rest-frame grid, 3388-8318 Å")
    min_coverage: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.5, description="share of a grid pixel that valid native pixels must cover (conserve)"
    )
    deredden: bool = Field(
        False,
        description="correct sample and stacks for Milky Way dust (Fitzpatrick 1999, R_V 3.1, "
        "catalogue EBV); conserve alone",
    )
    z_min: float = Field(0.05, description="lowest redshift kept (inclusive)")
    z_max: float = Field(0.36, description="highest redshift kept (inclusive)")
    use_z_noqso: bool = Field(False, description="take Z_NOQSO where it is filled (BOSS galaxies)")
    zwarning_ignore_bits: tuple[Annotated[int, Field(ge=0, le=31)], ...] = Field(
        (), description="ZWARNING bits that do not remove a spectrum; paper: none"
    )
    classes: tuple[Literal["GALAXY", "QSO", "STAR"], ...] = Field(
        ("GALAXY", "QSO"), description="pipeline classes kept"
    )
    require_primary: bool = Field(True, description="SPECPRIMARY = 1 where the catalogue says")
    require_science_target: bool = Field(
        True, description="TARGETTYPE SCIENCE where it is given: no standard stars, no sky"
    )
    require_good_plate: bool = Field(True, description="PLATEQUALITY good where it is given")
    require_good_fiber: bool = Field(
        True, description="COADD_FIBERSTATUS 0 where it is given (DESI)"
    )
    snr: Literal["snr_total", "snr_median", "snr_mean"] = Field(
        "snr_total", description="which S/N of science.md §3 the cut is on"
    )
    min_snr: float = Field(50.0, description="S/N must be above this")
    max_masked_fraction: Fraction = Field(0.4, description="masked share must be below this")

    @model_validator(mode="after")
    def _ordered(self) -> PrepareSection:
        if not -1.0 < self.z_min < self.z_max:
            msg = f"need -1 < z_min < z_max, found z_min = {self.z_min}, z_max = {self.z_max}"
            raise ValueError(msg)
        if self.deredden and self.preset == "reference":
            msg = "deredden is a setting of preset = 'conserve' (science.md §4): set one of them"
            raise ValueError(msg)
        return self

    @property
    def mask_preset(self) -> Literal["strict", "brightsky", "paper"]:
        """The mask preset that `auto` stands for."""
        if self.mask == "auto":
            return "paper" if self.preset == "reference" else "strict"
        return self.mask
