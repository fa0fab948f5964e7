"""What a survey file says, read with astropy and h5py alone: the judge of a fuzz test.

Written from formats.md, with nothing of `spectra_scale.surveys`. Whatever cannot be read here
raises: a reader that still gives a spectrum has to say why.
"""

import gzip
import io
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from astropy.io import fits

SDSS_FIRST, DESI_FIRST, DESI_STEP = 35480, 4500, 0.8
LINES = {"hbeta": "H_beta", "oiii": "[O_III] 5007", "halpha": "H_alpha", "nii": "[N_II] 6583"}
ANY_BIT = 0xFFFFFFFF
MOST_HDUS, BLOCK = 64, 2880
UNPACK = """
import sys
from astropy.io import fits
with fits.open(sys.argv[1], memmap=False) as hdus:
    plain = [fits.ImageHDU(hdu.data, hdu.header) if isinstance(hdu, fits.CompImageHDU) else hdu
             for hdu in hdus]
    fits.HDUList(plain).writeto(sys.argv[2], output_verify="silentfix")
"""


class NoReferenceError(Exception):
    """The file does not say it: a rule of formats.md is broken."""


@dataclass
class Spectrum:
    """Pixels of one spectrum from native index `first` on, and what its row says."""

    first: int
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    row: dict = field(default_factory=dict)
    lines: dict | None = None
    merged: np.ndarray | None = None


def spectrum_of(kind, path, ident, redshifts=None):
    """One spectrum of a file as its format defines it; anything may be raised."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if kind == "mmu":
            return _mmu(path, ident)
        with _open(path) as hdus:
            found = {"spec": _spec, "spplate": _plate, "coadd": _coadd}[kind](hdus, ident)
        if redshifts is not None:
            with _open(redshifts) as hdus:
                found.row = {"spplate": _zbest, "coadd": _redrock}[kind](hdus, ident)
        return found


def _content(path):
    """The file as it was before gzip and fpack."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    # What begins as a primary header does is another file (FITS standard 4.0, section 3.5).
    more = (at for at in range(BLOCK, len(content), BLOCK) if content.startswith(b"SIMPLE  =", at))
    content = content[: next(more, None)]
    if b"ZTABLE  =" not in content and b"ZIMAGE  =" not in content:
        return content
    # Of packed tables astropy knows nothing, and damaged packed images may kill the process.
    with tempfile.TemporaryDirectory() as folder:
        packed, plain = Path(folder, "packed.fits"), Path(folder, "plain.fits")
        packed.write_bytes(content)
        unpackers = (["funpack", "-O", str(plain), str(packed)],
                     # funpack stumbles over cards that astropy knows, such as INHERIT.
                     [sys.executable, "-c", UNPACK, str(packed), str(plain)])  # fmt: skip
        for command in unpackers:
            subprocess.run(command, capture_output=True, check=False, timeout=60)
            if plain.exists():
                return plain.read_bytes()
        raise NoReferenceError("it cannot be unpacked")


@contextmanager
def _open(path):
    """The HDUs up to the end, or to what cannot be read: what is in front of it is whole."""
    content = _without_loose_ends(_content(path))
    with fits.open(io.BytesIO(content), lazy_load_hdus=True) as hdus:
        n_hdus = 0
        # Of a header that says a negative size astropy would read for ever.
        while n_hdus < MOST_HDUS and _is_there(hdus, n_hdus):
            n_hdus += 1
    with fits.open(io.BytesIO(content), lazy_load_hdus=True) as hdus:
        yield [hdus[index] for index in range(n_hdus)]


def _without_loose_ends(content):
    """Blank cards that astropy stumbles over and that have no say in the data.

    CONTINUE after a value that does not end with & is commentary (FITS standard 4.0, section
    4.2.1.2), CHECKSUM and DATASUM say nothing of where the data are, EXTEND is advice (4.4.2.1),
    and where the primary HDU has no data (NAXIS 0 in its place), what else is said of its size is
    idle. A column may have no name (7.3.2), and of two columns of one name the others are fine.
    """
    made, at = bytearray(content), content.find(b"CONTINUE")
    while at >= 0:
        if at % 80 == 0 and b"&'" not in content[at - 80 : at]:
            made[at : at + 80] = b" " * 80
        at = content.find(b"CONTINUE", at + 1)
    empty = content[160:190] == b"NAXIS   =                    0"
    end = content.find(b"XTENSION=") if empty else 0
    names: set[bytes] = set()
    for at in range(240, len(made), 80):
        key = bytes(made[at : at + 8])
        idle = key.startswith((b"NAXIS", b"BITPIX", b"PCOUNT", b"GCOUNT", b"XTENSION"))
        if key in {b"CHECKSUM", b"DATASUM ", b"EXTEND  "} or (at < end and idle):
            made[at : at + 80] = b" " * 80
        names = set() if key == b"XTENSION" else names
        if key.startswith(b"TTYPE"):
            name = bytes(made[at + 10 : at + 80]).partition(b"/")[0].strip(b"' ").lower()
            if name in names or not name:
                made[at : at + 80] = (b"%b= 'twin of %b %d'" % (key, name[:30], at)).ljust(80)
            names.add(name)
    return bytes(made)


def _is_there(hdus, index):
    try:
        hdus[index]
    except Exception:  # noqa: BLE001 - whatever astropy raises
        return False
    return True


def _name(hdu):
    given = hdu.header.get("EXTNAME", "")
    return given.strip().upper() if isinstance(given, str) else ""


def _hdu(hdus, names, index):
    """An HDU by name; by its place if that one has no name.

    Where HDUs of another file were put behind, that in its place is meant: near ones first.
    """
    for part in (hdus[: (index or 0) + 3], hdus):
        for name in names:
            for hdu in part[1:]:
                if _name(hdu) == name:
                    return hdu
    if index is not None and index < len(hdus) and not _name(hdus[index]):
        return hdus[index]
    raise NoReferenceError(f"no HDU {names}")


def _column(hdu, *names):
    """A column by name in any case; the first of the names that there is."""
    there = [str(name).strip().lower() for name in hdu.columns.names]
    for name in names:
        if any(each.startswith(f"twin of {name.lower()} ") for each in there):
            raise NoReferenceError(f"two columns {name}")
        if name.lower() in there:
            return _values_of(hdu, there.index(name.lower()))
    raise NoReferenceError(f"no column {names}")


def _values_of(hdu, number):
    raw = hdu.data.view(np.ndarray)
    if raw.dtype[number].kind != "S" or not isinstance(hdu, fits.BinTableHDU):
        values = np.asarray(hdu.data.field(number))
        return np.char.strip(values.astype(str)) if values.dtype.kind in "SU" else values
    # FITS has ASCII alone, and astropy raises for more. Text that is damaged shows it, numbers
    # beside it do not: nothing is gained by losing the row, so other bytes are Latin-1 here.
    texts = [each.partition(b"\0")[0].decode("latin-1").strip()
             for each in raw[raw.dtype.names[number]].tolist()]  # fmt: skip
    return np.array(texts, dtype="U")


def _has(hdu, name):
    return name.lower() in [str(each).strip().lower() for each in hdu.columns.names]


def _values(hdu, row, **columns):
    return {name: _column(hdu, *names)[row] for name, names in columns.items()}


def _good(flux, ivar):
    return np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)


def _native(k, expected):
    """First native index of consecutive pixels."""
    first = np.rint(k[0])
    if not (np.abs(k - (first + np.arange(len(k)))) < 0.11).all() or len(k) != expected:
        raise NoReferenceError("pixels are not consecutive ones of the native grid")
    return int(first)


# SDSS -------------------------------------------------------------------------------------------


def _spec(hdus, _):
    coadd = _hdu(hdus, ("COADD",), 1)
    flux, loglam, ivar, mask = (_column(coadd, n) for n in ("flux", "loglam", "ivar", "and_mask"))
    if flux.dtype.newbyteorder("=") != np.float32 or mask.dtype.newbyteorder("=") != np.int32:
        raise NoReferenceError("other types")
    first = _native(loglam.astype("f8") / 1e-4, len(flux))
    bits = mask.astype("i4").view("u4")
    table = _hdu(hdus, ("SPECOBJ", "SPALL"), 2)
    row = _values(table, 0, mjd=("MJD",), z=("Z",), z_err=("Z_ERR",), zwarning=("ZWARNING",),
                  **{"class": ("CLASS",)}, subclass=("SUBCLASS",))  # fmt: skip
    if _has(table, "CATALOGID") and _has(table, "FIELD"):
        row |= _values(table, 0, catalogid=("CATALOGID",), ra=("PLUG_RA", "RACAT"))
    else:
        row |= _values(
            table, 0, plate=("PLATE", "PLATEID"), fiber=("FIBERID",), ra=("PLUG_RA", "RA")
        )
    return Spectrum(first, flux, ivar, bits, row, _lines(hdus, float(row["z"])))


def _lines(hdus, z):
    """Line fluxes by name, EW in the rest frame; None without a table of lines."""
    try:
        table = _hdu(hdus, ("SPZLINE", "ZLINE"), 3)
        if not _has(table, "LINENAME"):
            table = _hdu(hdus, ("ZLINE",), 4)
        columns = {name: _column(table, name) for name in
                   ("LINENAME", "LINEAREA", "LINEAREA_ERR", "LINEEW", "LINEEW_ERR")}  # fmt: skip
    except (NoReferenceError, AttributeError):
        return None
    names = columns["LINENAME"].tolist()
    found = {}
    for line, name in LINES.items():
        value = error = np.nan
        if name in names:
            at = names.index(name)
            value, error = columns["LINEAREA"][at], columns["LINEAREA_ERR"][at]
        good = np.isfinite(value) and value != -9999 and np.isfinite(error) and error > 0
        found[f"{line}_flux"] = float(value) if good else np.nan
        if line == "halpha" and name in names:
            ew, error = columns["LINEEW"][at], columns["LINEEW_ERR"][at]
            good = np.isfinite(ew) and ew != -9999 and np.isfinite(error) and error > 0
            found["halpha_ew"] = float(ew) / (1 + z) if good else np.nan
    return found


def _plate(hdus, fiber):
    flux, ivar, mask = (hdus[i].data for i in range(3))
    header = hdus[0].header
    if flux.ndim != 2 or ivar.shape != flux.shape or mask.shape != flux.shape:
        raise NoReferenceError("images of other shapes")
    tables = [isinstance(hdu, fits.BinTableHDU) for hdu in hdus[:6]]
    if tables != ([False] * 5 + [True])[: len(tables)]:
        raise NoReferenceError("HDUs are out of their places")
    numbers = np.arange(1, len(flux) + 1)
    if len(hdus) > 5 and _has(hdus[5], "FIBERID") and len(hdus[5].data) == len(flux):
        numbers = _column(hdus[5], "FIBERID")
    rows = np.flatnonzero(numbers == fiber)
    if len(rows) != 1:
        raise NoReferenceError(f"{len(rows)} fibres of number {fiber}")
    start, step = float(header["COEFF0"]), float(header["COEFF1"])
    first = _native((start + step * np.arange(flux.shape[1])) / 1e-4, flux.shape[1])
    at = rows[0]
    return Spectrum(first, flux[at], ivar[at], mask[at].astype("i4").view("u4"))


def _zbest(hdus, fiber):
    table = next((hdu for hdu in hdus[1:] if isinstance(hdu, fits.BinTableHDU)), None)
    if table is None:
        raise NoReferenceError("no table")
    rows = np.flatnonzero(_column(table, "FIBERID") == fiber)
    if len(rows) != 1:
        raise NoReferenceError(f"{len(rows)} redshifts of fibre {fiber}")
    return _values(table, rows[0], plate=("PLATE", "PLATEID"), mjd=("MJD",), fiber=("FIBERID",),
                   z=("Z",), zwarning=("ZWARNING",), **{"class": ("CLASS",)})  # fmt: skip


# DESI -------------------------------------------------------------------------------------------


def _coadd(hdus, target):
    rows = np.flatnonzero(_column(_hdu(hdus, ("FIBERMAP",), None), "TARGETID") == target)
    if len(rows) != 1:
        raise NoReferenceError(f"{len(rows)} spectra of target {target}")
    n, row = 7781, rows[0]
    total, summed, bits = np.zeros(n), np.zeros(n), np.zeros(n, "u4")
    single, n_arms = np.zeros(n, "f4"), np.zeros(n, int)
    names = [_name(hdu) for hdu in hdus[1:]]
    for arm in "BRZ":
        if f"{arm}_FLUX" not in names or f"{arm}_IVAR" not in names:
            continue
        wave = np.asarray(_hdu(hdus, (f"{arm}_WAVELENGTH",), None).data, "f8")
        flux, ivar = (np.asarray(_hdu(hdus, (f"{arm}_{kind}",), None).data[row]).astype("f4")
                      for kind in ("FLUX", "IVAR"))  # fmt: skip
        start = _native(wave / DESI_STEP, len(flux)) - DESI_FIRST
        here = slice(start, start + len(flux))
        if start < 0 or here.stop > n or ivar.shape != flux.shape or wave.ndim != 1:
            raise NoReferenceError("pixels off the grid")
        good = _good(flux, ivar)
        weight = np.where(good, ivar, 0).astype("f8")
        total[here] += weight
        summed[here] += np.where(good, weight * flux, 0)
        single[here] = np.where(good, flux, single[here])
        n_arms[here] += good
        if f"{arm}_MASK" in names:
            mask = np.asarray(_hdu(hdus, (f"{arm}_MASK",), None).data[row])
            bits[here] |= mask.astype("i8").astype("u4")
    if not total.any():
        raise NoReferenceError("no usable pixel")
    mean = np.divide(summed, total, out=np.zeros(n), where=total > 0)
    flux = np.where(n_arms > 1, mean.astype("f4"), single)
    ivar = np.minimum(total, np.finfo("f4").max).astype("f4")
    return Spectrum(DESI_FIRST, flux, ivar, np.where(ivar > 0, 0, bits), merged=n_arms > 1)


def _redrock(hdus, target):
    table = _hdu(hdus, ("REDSHIFTS", "ZBEST"), None)
    rows = np.flatnonzero(_column(table, "TARGETID") == target)
    if len(rows) != 1:
        raise NoReferenceError(f"{len(rows)} redshifts of target {target}")
    return _values(table, rows[0], targetid=("TARGETID",), z=("Z",), zwarning=("ZWARN",),
                   **{"class": ("SPECTYPE",)}, subclass=("SUBTYPE",))  # fmt: skip


# MultimodalUniverse -----------------------------------------------------------------------------


def _mmu(path, row):
    with h5py.File(path, "r") as file:
        names = {name.lower(): name for name in file}
        flux, ivar, wave = (
            np.asarray(file[names[f"spectrum_{kind}"]][row]) for kind in ("flux", "ivar", "lambda")
        )
        mask = np.zeros(len(flux), bool)
        if "spectrum_mask" in names:
            mask = np.asarray(file[names["spectrum_mask"]][row]).astype(bool)
        desi = "targetid" in names
        found = {"z": float(file[names["z"]][row])}
        if desi:
            found["targetid"] = int(file[names["targetid"]][row])
    real = wave != -1
    k = wave[real].astype("f8") / DESI_STEP if desi else np.log10(wave[real].astype("f8")) / 1e-4
    first = _native(k, int(real.sum()))
    bits = np.where(mask, ANY_BIT, 0).astype("u4")
    return Spectrum(first, flux[real].astype("f4"), ivar[real].astype("f4"), bits[real], found)


# Comparison -------------------------------------------------------------------------------------


def differences(expected, stored, first, kind):
    """What is wrong with native arrays (flux, ivar, mask) from native index `first` on, in words.

    Equal to the bit where a pixel can be used; where arms of a coadd overlap, to the rounding of
    float32 (2^-23 of the larger of both, sums being made in float64 in another order).
    """
    flux, ivar, mask = stored
    n = len(flux)
    at = expected.first - first
    inside = slice(max(at, 0), max(min(at + len(expected.flux), n), 0))
    part = slice(inside.start - at, inside.stop - at)
    want = [np.zeros(n, "f4"), np.zeros(n, "f4"), np.zeros(n, "u4")]
    with np.errstate(all="ignore"):
        good = _good(expected.flux, expected.ivar)
        usable = np.where(good, expected.ivar, 0)
    outside = usable.copy()
    outside[part] = 0
    found = ["data outside the grid were dropped"] if outside.any() else []
    for array, values in zip(want, (expected.flux, usable, expected.mask), strict=True):
        array[inside] = values[part]
    if not usable.any():
        found.append("no usable pixel")
    merged = np.zeros(n, bool)
    if expected.merged is not None:
        merged[inside] = expected.merged[part]
    used = want[1] > 0
    if (ivar > 0).tolist() != used.tolist():
        found.append(f"{np.count_nonzero((ivar > 0) != used)} pixels used that are not, or not")
    for name, mine, theirs in (("flux", flux, want[0]), ("ivar", ivar, want[1])):
        same = mine.view("u4") == theirs.view("u4")
        with np.errstate(all="ignore"):
            same |= merged & (np.abs(mine - theirs) <= 2.0**-22 * np.abs(theirs))
        if not same[used].all():
            found.append(f"{np.count_nonzero(~same[used])} pixels of {name} differ")
    if not np.array_equal(mask, want[2]):
        found.append(f"{np.count_nonzero(mask != want[2])} pixels of mask differ")
    return found
