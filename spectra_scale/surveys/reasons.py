"""Why a file or a spectrum is not a usable row: the reason codes of the ledger."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reason code of a file, row or fibre that is not kept.

    The value is what stands in the ledger; `describe` gives a sentence for people.
    """

    EMPTY_FILE = "empty_file"
    NOT_FITS = "not_fits"
    TRUNCATED = "truncated"
    UNREADABLE = "unreadable"
    MISSING_HDU = "missing_hdu"
    MISSING_COLUMN = "missing_column"
    NO_ROWS = "no_rows"
    BAD_LOGLAM = "bad_loglam"
    ALL_IVAR_ZERO = "all_ivar_zero"
    NON_FINITE_FLUX = "non_finite_flux"
    BAD_IVAR = "bad_ivar"
    OUTSIDE_NATIVE_GRID = "outside_native_grid"
    BAD_REDSHIFT = "bad_redshift"
    IDENTITY_MISMATCH = "identity_mismatch"
    BAD_IDENTITY = "bad_identity"
    DR7_SPSPEC = "dr7_spspec"
    UNKNOWN_FORMAT = "unknown_format"
    NOT_A_SPECTRUM = "not_a_spectrum"
    NOT_COADDED = "not_coadded"
    OTHER_SURVEY = "other_survey"
    SKY_FIBRE = "sky_fibre"
    DUPLICATE = "duplicate"
    FILE_WITHOUT_ROW = "file_without_row"
    ROW_WITHOUT_FILE = "row_without_file"
    FIBRE_WITHOUT_ROW = "fibre_without_row"
    ROW_WITHOUT_FIBRE = "row_without_fibre"
    NO_REDSHIFT = "no_redshift"
    BAD_WAVELENGTH = "bad_wavelength"
    FILE_CHANGED = "file_changed"
    CUT_REDSHIFT = "cut_redshift"
    CUT_CLASS = "cut_class"
    CUT_ZWARNING = "cut_zwarning"


_TEXT = {
    Reason.EMPTY_FILE: "the file has no bytes",
    Reason.NOT_FITS: "the content is not FITS, for example an HTML error page saved as .fits",
    Reason.TRUNCATED: "the file ends before the data its headers announce",
    Reason.UNREADABLE: "the headers contradict themselves or the file cannot be opened",
    Reason.MISSING_HDU: "a needed HDU (COADD, SPECOBJ or SPALL, IVAR, ANDMASK, PLUGMAP) is absent",
    Reason.MISSING_COLUMN: "a needed column is absent or is of an unusable type",
    Reason.NO_ROWS: "a needed table has no rows",
    Reason.BAD_LOGLAM: "wavelengths are not finite, not increasing or not on the 1e-4 dex grid",
    Reason.ALL_IVAR_ZERO: "no pixel has a positive inverse variance",
    Reason.NON_FINITE_FLUX: "flux is NaN or infinite wherever the inverse variance is positive",
    Reason.BAD_IVAR: "no pixel has a usable inverse variance: all are zero, negative, NaN or inf",
    Reason.OUTSIDE_NATIVE_GRID: "pixels with data lie outside the release's native grid",
    Reason.BAD_REDSHIFT: "the redshift is NaN, infinite or <= -1",
    Reason.IDENTITY_MISMATCH: "a name or id says another observation than the header or row",
    Reason.BAD_IDENTITY: "a catalogue row that does not say which observation it is of",
    Reason.DR7_SPSPEC: "a DR7 spSpec file, an older format: get the spec files of DR8 or later",
    Reason.UNKNOWN_FORMAT: "FITS or HDF5, but no kind of file that is known here",
    Reason.NOT_A_SPECTRUM: "a text, table or other side file",
    Reason.NOT_COADDED: "exposures that are not co-added: the co-added file is read instead",
    Reason.OTHER_SURVEY: "a spectrum of another survey than the one that is ingested",
    Reason.SKY_FIBRE: "a sky or calibration fibre, or an unplugged one",
    Reason.DUPLICATE: "the same observation in the same reduction was already taken",
    Reason.FILE_WITHOUT_ROW: "a spectrum file without a row in the catalogue",
    Reason.ROW_WITHOUT_FILE: "a catalogue row without a spectrum file",
    Reason.FIBRE_WITHOUT_ROW: "a fibre of a plate file without a redshift row",
    Reason.ROW_WITHOUT_FIBRE: "a catalogue row whose spectrum is not in its file",
    Reason.NO_REDSHIFT: "a spectrum without a redshift: its redshift file lacks it",
    Reason.BAD_WAVELENGTH: "wavelengths are not those of the survey's grid (DESI: 0.8 Å)",
    Reason.FILE_CHANGED: "the file was replaced or cut while it was read",
    Reason.CUT_REDSHIFT: "a catalogue row outside [ingest] z_min to z_max",
    Reason.CUT_CLASS: "a catalogue row of a class that [ingest] classes leaves out",
    Reason.CUT_ZWARNING: "a catalogue row with ZWARNING bits, which [ingest] zwarning_zero drops",
}


def describe(reason: Reason | str) -> str:
    """Say a reason code in words.

    Parameters
    ----------
    reason
        Reason or its code.

    Returns
    -------
    str
        One sentence without a full stop.

    Raises
    ------
    ValueError
        If the code is none of `Reason`.

    Examples
    --------
    >>> describe("empty_file")
    'the file has no bytes'
    """
    return _TEXT[Reason(reason)]
