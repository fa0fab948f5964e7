"""Survey files to damage, and seeded ways to damage them: for tests of a whole ingest."""

import gzip
import io
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import desi_builders as desi
import h5py
import numpy as np
import surveys_builders as sdss
from astropy.io import fits

from spectra_scale.spectrum.specobjid import sdss_specobjid

BLOCK, CARD = 2880, 80
N_TARGETS = 3


@dataclass(frozen=True)
class Unit:
    """A spectrum file and the file with its redshifts: name to content, the spectra first.

    `rows` are rows of a catalogue, by the names of specObj or of a zall-pix.
    """

    kind: str
    files: dict[str, bytes]
    rows: list[dict] = field(default_factory=list)


def content_of(hdus):
    """A file's bytes; DATASUM of HDUs that have one is that of these bytes."""
    out = io.BytesIO()
    hdus.writeto(out, output_verify="silentfix")
    if not any("DATASUM" in hdu.header for hdu in hdus):
        return out.getvalue()
    # astropy sums texts as they are in memory, which is not how it writes them.
    out.seek(0)
    written, summed = fits.open(out, memmap=False), io.BytesIO()
    for hdu in written:
        if "DATASUM" in hdu.header:
            hdu.add_checksum()
    written.writeto(summed, output_verify="silentfix")
    return summed.getvalue()


# Whole files ------------------------------------------------------------------------------------


def _specobj(plate, mjd, fiber, z=0.1, run2d="26"):
    return {"PLATE": plate, "MJD": mjd, "FIBERID": fiber, "PLUG_RA": 10 + fiber / 100,
            "PLUG_DEC": -1.0, "CLASS": "GALAXY", "SUBCLASS": "", "Z": z, "Z_ERR": 1e-5,
            "ZWARNING": 0, "RUN2D": run2d}  # fmt: skip


def made_specs(n):
    """Spec files by hand: legacy and BOSS, HDUs with names and without, upper and lower case."""
    for i in range(n):
        fiber, boss = i + 1, i % 3 == 1
        row = sdss.boss_row if boss else sdss.legacy_row
        plate, mjd = (3606, 55182) if boss else (266, 51602)
        names = ("COADD", "SPALL" if boss else "SPECOBJ", "SPZLINE") if i % 4 else (None,) * 3
        hdus = sdss.spec_hdus(
            sdss.coadd_columns(150, seed=i, upper=i % 5 == 0),
            row(FIBERID=np.int32(fiber), Z=np.float32(0.05 + i / 1000)),
            names=names,
        )
        if i % 6 == 0:
            for hdu in hdus[1:]:
                hdu.add_checksum()
        name = f"spec-{plate:04d}-{mjd}-{fiber:04d}.fits"
        rows = [_specobj(plate, mjd, fiber, 0.2, "v5_13_0" if boss else "26")]
        yield Unit("spec", {name: content_of(hdus)}, rows)


def made_sdssv(n):
    for i in range(n):
        release = ("DR18", "DR19", "DR20")[i % 3]
        catalogid = np.int64(27021598150202075 + 1000 * i)
        row = sdss.sdssv_row(release, CATALOGID=catalogid)
        field_, mjd = (15143, 59205) if release == "DR18" else (112360, 60000)
        hdus = sdss.sdssv_hdus(release, row, named=i % 2 == 0)
        name = f"spec-{field_}-{mjd}-{catalogid}.fits"
        yield Unit("spec", {name: content_of(hdus)})


def made_plates(n, n_fibers=5):
    """Plates with spZbest; the last fibre is on sky."""
    for i in range(n):
        plate, mjd = 4055 + i, 55359
        primary = sdss.plate_hdus(n_fibers, 80, seed=i)
        table = sdss.zbest_columns(n_fibers, plate, mjd)
        zbest = fits.HDUList([fits.PrimaryHDU(), sdss.table_hdu(table)])
        files = {f"spPlate-{plate}-{mjd}.fits": content_of(primary),
                 f"spZbest-{plate}-{mjd}.fits": content_of(zbest)}  # fmt: skip
        rows = [_specobj(plate, mjd, fiber, 0.2, "v5_7_0") for fiber in range(1, n_fibers)]
        yield Unit("spplate", files, rows)


def _zall(ids, healpix):
    return [
        {"TARGETID": int(target), "SURVEY": "main", "PROGRAM": "dark", "HEALPIX": healpix,
         "TARGET_RA": 10.0 + i, "TARGET_DEC": -1.0, "Z": 0.2, "ZERR": 1e-5, "ZWARN": 0,
         "SPECTYPE": "GALAXY", "SUBTYPE": "", "OBJTYPE": "TGT"}
        for i, target in enumerate(ids)
    ]  # fmt: skip


def made_coadds(n):
    for i in range(n):
        pixel = 20000 + i
        header = desi.HEADER | {"SPGRPVAL": pixel, "HPXPIXEL": pixel}
        ids = desi.target_ids(N_TARGETS) + 100 * i
        hdus = desi.coadd_hdus(N_TARGETS, i, header, resolution=False, TARGETID=ids)
        if i % 2:
            for hdu in hdus[1:]:
                hdu.add_checksum()
        redrock = desi.redrock_hdus(ids, header)
        files = {f"coadd-main-dark-{pixel}.fits": content_of(hdus),
                 f"redrock-main-dark-{pixel}.fits": content_of(redrock)}  # fmt: skip
        yield Unit("coadd", files, _zall(ids, pixel))


def hdf5(datasets, *, packed=False):
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for name, values in datasets.items():
            wide = packed and values.ndim == 2
            extra = {"compression": "gzip", "fletcher32": True} if wide else {}
            file.create_dataset(name, data=values, **extra)
    return out.getvalue()


def made_mmu(n, survey):
    datasets = sdss_datasets if survey == "sdss" else desi_datasets
    for i in range(n):
        content = hdf5(datasets(i), packed=i % 2 == 1)
        yield Unit("mmu", {f"healpix={i}/001-of-001.hdf5": content})


def _pixels(rng, n, n_pixels):
    ivar = rng.uniform(0.5, 1.5, (n, n_pixels)).astype("f4")
    ivar[:, 3:6] = 0
    return {"spectrum_flux": rng.normal(10, 1, (n, n_pixels)).astype("f4"), "spectrum_ivar": ivar,
            "spectrum_mask": (ivar == 0) | (rng.random((n, n_pixels)) < 0.1)}  # fmt: skip


def sdss_datasets(i, n=3):
    """A MultimodalUniverse file of one plate (formats.md A6)."""
    fiber = np.arange(1, n + 1, dtype="i4")
    plate, mjd = 1325 + i, 52762
    ids = sdss_specobjid(np.full(n, plate), fiber, np.full(n, mjd), "26")
    wave = (10 ** (np.arange(35800, 35900) * 1e-4)).astype("f4")
    return {"object_id": ids.astype("S20"), "PLATE": np.full(n, plate, "i4"),
            "MJD": np.full(n, mjd, "i4"), "FIBERID": fiber, "PLUG_RA": np.linspace(10, 11, n),
            "PLUG_DEC": np.linspace(-1, 1, n), "Z": np.linspace(0.1, 0.2, n),
            "ZWARNING": np.zeros(n, "i4"), "CLASS": np.full(n, "GALAXY", "S6"),
            "RUN2D": np.full(n, "26", "S2"), "spectrum_lambda": np.tile(wave, (n, 1)),
            **_pixels(np.random.default_rng(i), n, 100)}  # fmt: skip


def desi_datasets(i, n=3):
    ids = desi.target_ids(n) + 100_000 + 100 * i
    wave = (3600 + 0.8 * np.arange(7781)).astype("f4")
    return {"object_id": ids, "TARGETID": ids, "SURVEY": np.full(n, "sv3", "S7"),
            "PROGRAM": np.full(n, "dark", "S6"), "TARGET_RA": np.linspace(10, 11, n),
            "TARGET_DEC": np.linspace(-1, 1, n), "Z": np.linspace(0.1, 0.2, n),
            "ZERR": np.full(n, 1e-5), "ZWARN": np.zeros(n, "i8"),
            "SPECTYPE": np.full(n, "GALAXY", "S6"), "OBJTYPE": np.full(n, "TGT", "S3"),
            "spectrum_lambda": np.tile(wave, (n, 1)),
            **_pixels(np.random.default_rng(i), n, 7781)}  # fmt: skip


def files_of(folder, pattern, every=1):
    """Real or mock spec files of one observation each, with a row for a catalogue."""
    for path in sorted(folder.rglob(pattern))[::every]:
        with fits.open(path, memmap=False) as hdus:
            row = hdus[2].data[0]
            names = {name.upper() for name in hdus[2].columns.names}
            key = [int(row[n]) for n in ("PLATE", "MJD", "FIBERID")] if "FIBERID" in names else []
            run2d = str(row["RUN2D"]).strip()
        rows = [_specobj(*key, 0.2, run2d)] if key and "CATALOGID" not in names else []
        yield Unit("spec", {path.name: path.read_bytes()}, rows)


def real_coadds(folder):
    """Real coadds; those without a redrock file are given one."""
    # Of one the header says another survey than the name: that is refused.
    for path in sorted(folder.glob("coadd-[!m]*.fits")):
        partner = path.with_name(path.name.replace("coadd", "redrock"))
        with fits.open(path, memmap=False) as hdus:
            ids = np.asarray(hdus["FIBERMAP"].data["TARGETID"], "i8")
        content = (
            partner.read_bytes()
            if partner.exists()
            else content_of(desi.redrock_hdus(ids, targets=False))
        )
        yield Unit("coadd", {path.name: path.read_bytes(), partner.name: content})


# Packed forms: the same spectra ------------------------------------------------------------------


def has_fpack():
    return shutil.which("fpack") is not None


def fpacked(content):
    """What fpack makes of images and tables, without loss; None where there is no fpack."""
    if not has_fpack():
        return None
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = Path(folder, "x.fits"), Path(folder, "x.fits.fz")
        plain.write_bytes(content)
        command = ["fpack", "-table", "-g", "-q", "0", "-O", str(packed), str(plain)]
        done = subprocess.run(command, capture_output=True, check=False)
        return packed.read_bytes() if done.returncode == 0 else None


def packed_unit(unit, how):
    """The same unit with its spectra packed."""
    name, content = next(iter(unit.files.items()))
    made = fpacked(content) if how == "fz" else gzip.compress(content, 1)
    if made is None:
        return None
    rest = dict(list(unit.files.items())[1:])
    return Unit(unit.kind, {f"{name}.{how}": made} | rest, unit.rows)


# Damage -----------------------------------------------------------------------------------------


def spans(content):
    """Start of header, start of data and end of each HDU, as far as they can be told."""
    starts = [at for at in range(0, len(content), BLOCK)
              if content.startswith((b"SIMPLE  =", b"XTENSION="), at)]  # fmt: skip
    found = []
    for start, stop in itertools.pairwise([*starts, len(content)]):
        data = start
        while data < stop:
            filled = content[data : data + BLOCK].rstrip(b" ")
            data += BLOCK
            if filled.endswith(b"END") and len(filled) % CARD == 3:
                break
        found.append((start, min(data, stop), stop))
    return found


def cards_of(header):
    cards = [header[at : at + CARD] for at in range(0, len(header), CARD)]
    return cards[: next((i for i, c in enumerate(cards) if c.strip() == b"END"), len(cards))]


def header_of(cards, end=b"END"):
    raw = b"".join(card[:CARD].ljust(CARD) for card in [*cards, end])
    return raw.ljust(-(-len(raw) // BLOCK) * BLOCK)


VALUES = (
    "0", "-1", "1", "2", "3", "8", "16", "32", "64", "-32", "-64", "999", "1000", "2880",
    "100000", "1000000000000", "99999999999999999999", "-9999999999", "NaN", "nan", "inf", "T",
    "F", "''", "'abc'", "'NaN'", "1.5", "1E400", "-2147483648", "4294967296", "2147483648.0",
    "0.0", "1E-4", "(1,2)", "", "'it''s", "/ no value",
)  # fmt: skip
FORMS = (
    "E", "1E", "D", "J", "K", "I", "B", "L", "X", "0E", "0A", "2E", "8A", "1PE(5)", "1QD(2)", "C",
    "M", "Z", "-1E", "9999999999E", "1e", "16X", "E ", "", "1000000000000D", "22A5",
)  # fmt: skip
NAMES = (
    "flux", "FLUX", "Flux", "loglam", "ivar", "and_mask", "or_mask", "sky", "model", "wdisp", "z",
    "PLATE", "MJD", "FIBERID", "CLASS", "Z", "Z_ERR", "TARGETID", "OBJTYPE", "ZWARN", "RUN2D", "",
    "SPECTYPE", "COADD_FIBERSTATUS", "LINENAME", "LINEAREA", "x" * 40,
)  # fmt: skip
EXTNAMES = (
    "COADD", "coadd", "SPECOBJ", "SPALL", "SPZLINE", "FIBERMAP", "REDSHIFTS", "B_FLUX", "R_FLUX",
    "B_IVAR", "R_IVAR", "Z_FLUX", "B_MASK", "B_WAVELENGTH", "R_WAVELENGTH", "ZBEST", "", "PRIMARY",
)  # fmt: skip
EXTRA = (
    b"TZERO1  =                  0.5", b"TSCAL1  =                  2.0", b"TSCAL3  = -1",
    b"TZERO3  =         2147483648.0", b"BZERO   =                 10.0", b"BSCALE  =  2.0",
    b"THEAP   =                   -5", b"PCOUNT  =        1000000000000", b"TNULL3  = 0",
    b"TDIM1   = '(2,2)   '", b"CONTINUE  'more text'", b"CONTINUE", b"BLANK   = 0",
    b"ZIMAGE  =                    T", b"ZTABLE  =                    T", b"ZFORM1  = '1E'",
    b"NAXIS3  =                    7", b"NAXIS   =                    2", b"EXTEND  = F",
    b"EXTNAME = 'COADD   '", b"HIERARCH a b c = 1", b"COEFF0  = 3.6", b"COEFF0  = 'NaN'",
    b"RUN2D   = 'v5_7_0'", b"FIELDID = '99'", b"SURVEY  = 'sv3'", b"\xff\xfe caf\xe9", b"\0" * 80,
    b"INHERIT = T", b"GROUPS  = T", b"GCOUNT  = 0", b"XTENSION= 'IMAGE   '", b"LONGSTRN= 'x&'",
)  # fmt: skip


def _pick(rng, values):
    return values[int(rng.integers(len(values)))]


def _cut(rng, content, _):
    at = int(rng.integers(len(content)))
    return content[: at // BLOCK * BLOCK if rng.random() < 0.4 else at]


def _grow(rng, content, other):
    more = _pick(rng, (b"\0" * BLOCK, b"\xff" * 100, rng.bytes(5000), other[:BLOCK], other, b" "))
    return content + more


def _region(rng, content):
    """A stretch of a header or of data; of what is no FITS, anything."""
    found = spans(content)
    if not found or rng.random() < 0.2:
        return 0, len(content)
    start, data, stop = _pick(rng, found)
    # Most bytes are data, most trouble comes from headers.
    return (start, data) if rng.random() < 0.6 or data == stop else (data, stop)


def _flip(rng, content, _):
    made = bytearray(content)
    start, stop = _region(rng, content)
    for at in rng.integers(start, stop, int(rng.integers(1, 12))):
        made[at] ^= 1 << int(rng.integers(8))
    return bytes(made)


def _fill(rng, content, _):
    made = bytearray(content)
    start, stop = _region(rng, content)
    at, n = int(rng.integers(start, stop)), int(_pick(rng, (1, 2, 4, 8, 80, 400, BLOCK, 20000)))
    n = min(n, len(made) - at)
    made[at : at + n] = _pick(rng, (b"\0" * n, b"\xff" * n, rng.bytes(n), b"\x7f\x80\0\0" * n))[:n]
    return bytes(made)


def _parts(content):
    return [content[start:stop] for start, _, stop in spans(content)]


def _hdus(rng, content, other):
    """HDUs swapped, dropped, doubled, or one of another file put in."""
    parts, others = _parts(content), _parts(other) or [b""]
    if not parts:
        return content[::-1]
    a, b = (int(i) for i in rng.integers(len(parts), size=2))
    how = rng.integers(5)
    if how == 0:
        parts[a], parts[b] = parts[b], parts[a]
    elif how == 1:
        del parts[a]
    elif how == 2:
        parts.insert(b, parts[a])
    elif how == 3:
        parts.insert(a, _pick(rng, others))
    else:
        parts[a] = others[a] if a < len(others) and rng.random() < 0.7 else _pick(rng, others)
    return b"".join(parts)


def _new_card(rng, card):
    key = card[:8].rstrip().decode("latin-1")
    word = key.rstrip("0123456789")
    quoted = {"TFORM": FORMS, "TTYPE": NAMES, "EXTNAME": EXTNAMES, "XTENSION": ("IMAGE", "TABLE")}
    if word in quoted and rng.random() < 0.7:
        return f"{key:<8}= '{_pick(rng, quoted[word]):<8}'".encode()
    if rng.random() < 0.3 and card[10:30].strip().lstrip(b"-").isdigit():
        step = int(_pick(rng, (1, -1, 2, 1000, -1000, 1 << 31, 10**12)))
        return f"{key:<8}= {int(card[10:30]) + step:>20}".encode()
    return f"{key:<8}= {_pick(rng, VALUES):>20}".encode()


def _cards(rng, content, _):
    """Cards changed, removed, doubled or put in; the header stays a header."""
    found = spans(content)
    if not found:
        return _flip(rng, content, _)
    start, data, _stop = _pick(rng, found)
    cards = cards_of(content[start:data])
    if not cards:
        return content
    # Half of the time one of the first, where the mandatory cards are.
    at = int(rng.integers(min(len(cards), 9) if rng.random() < 0.5 else len(cards)))
    how, end = rng.integers(8), b"END"
    if how <= 3:
        cards[at] = _new_card(rng, cards[at])
    elif how == 4:
        del cards[at]
    elif how == 5:
        cards.insert(int(rng.integers(len(cards) + 1)), _pick(rng, (cards[at], *EXTRA)))
    elif how == 6:
        cards.append(_pick(rng, EXTRA))
    else:
        end = _pick(rng, (b"", b"end", b"END x", b"ENDING", cards[at].lower()))
    return content[:start] + header_of(cards, end) + content[data:]


def _columns(rng, content, _):
    """Names of columns swapped, or in another case."""
    found = [span for span in spans(content) if b"TTYPE1  =" in content[span[0] : span[1]]]
    if not found:
        return _cards(rng, content, _)
    start, data, _stop = _pick(rng, found)
    cards = cards_of(content[start:data])
    where = [i for i, card in enumerate(cards) if card.startswith(b"TTYPE")]
    a, b = (int(_pick(rng, where)) for _ in range(2))
    if rng.random() < 0.5:
        cards[a], cards[b] = cards[a][:8] + cards[b][8:], cards[b][:8] + cards[a][8:]
    else:
        for i in where:
            cards[i] = cards[i][:8] + cards[i][8:].swapcase()
    return content[:start] + header_of(cards) + content[data:]


def _turn(rng, content, _):
    """Bytes of the data of an HDU turned round, as written by a machine of the other kind."""
    start, stop = _pick(rng, [span[1:] for span in spans(content)] or [(0, len(content))])
    size = int(_pick(rng, (2, 4, 8)))
    n = (stop - start) // size * size
    turned = np.frombuffer(content, f"u{size}", n // size, start).byteswap().tobytes()
    return content[:start] + turned + content[start + n :]


def _gzip(rng, content, other):
    packed = gzip.compress(content, 1)
    how = rng.integers(6)
    if how == 0:
        return packed
    if how == 1:
        return packed[: int(rng.integers(len(packed)))]
    if how == 2:
        return packed + _pick(rng, (gzip.compress(b"\0" * BLOCK), b"\0" * 100, b"rubbish"))
    if how == 3:
        return gzip.compress(packed, 1)
    made = bytearray(packed)
    for at in rng.integers(0, len(made) if how == 4 else 12, 3):
        made[at] ^= 1 << int(rng.integers(8))
    return bytes(made)


HTML = b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"


def _other_thing(rng, content, other):
    return _pick(rng, (b"", HTML, HTML * 200, b"\0" * 5760, rng.bytes(3000), content[1:],
                       b"SIMPLE  =", content[:BLOCK], b"\n" + content, b"\x1f\x8b", other,
                       b"\x89HDF\r\n\x1a\n", content[::-1], content * 2))  # fmt: skip


DAMAGE: dict[str, tuple[Callable, float]] = {
    "cut": (_cut, 2), "grow": (_grow, 0.5), "flip": (_flip, 4), "fill": (_fill, 3),
    "hdus": (_hdus, 3), "cards": (_cards, 6), "columns": (_columns, 1), "turn": (_turn, 0.5),
    "gzip": (_gzip, 1.5), "thing": (_other_thing, 1),
}  # fmt: skip


def damaged(rng, content, other):
    """Content with one to three changes, and what they were."""
    weights = np.array([weight for _, weight in DAMAGE.values()])
    names = []
    for _ in range(int(_pick(rng, (1, 1, 1, 2, 3)))):
        if not content:
            break
        name = str(rng.choice(list(DAMAGE), p=weights / weights.sum()))
        names.append(name)
        content = DAMAGE[name][0](rng, content, other)
    return content, "+".join(names)
