"""Similar: the spectra of a run whose latents are nearest to those of a given one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spectra_scale.errors import UsageError
from spectra_scale.models.similar import METRICS, LatentSearch, Metric, scan, unit_scale
from spectra_scale.provenance import write_bytes
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum_file import encode_file, job_of
from spectra_scale.store.objects import column, columns_of
from spectra_scale.store.release import within
from spectra_scale.store.run import Run

log = logging.getLogger(__name__)
Floats = NDArray[np.float64]

#: Observations within this of each other are one object (science.md §4), degrees.
_SAME_OBJECT = 1.5 / 3600
#: Columns of the answer that the sample's index has.
_FACTS = ("release", "row", "spectrum_key", "reduction", "ra", "dec", "z", "class", "subclass")
#: Of a file that is no observation of an object of the sample.
_NOBODY = -1


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """The spectrum that others are to be like.

    Parameters
    ----------
    name
        Its spectrum_key.
    latents, covariance
        Shape (D,) and (D, D); the latter is None where the run stored none.
    sky_id
        Which object on the sky it is, by the run's sample; -1 if it is not in it.
    wave, flux, reconstruction
        Rest-frame wavelength (Å), normalised flux (NaN where masked) and its reconstruction.
    label, z
        Class code and redshift.
    extrapolated
        Where a file lies outside of what the model was trained on; empty if it does not.
    """

    name: str
    latents: Floats
    covariance: Floats | None
    sky_id: int
    wave: Floats
    flux: NDArray[np.float32]
    reconstruction: NDArray[np.float32]
    label: int
    z: float
    extrapolated: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Similar:
    """What is like a spectrum.

    Parameters
    ----------
    query
        The spectrum.
    table
        Neighbours, nearest first: `distance`, `same_object`, facts, `label_name`, `log_prob`,
        `p_value`.
    places
        Their rows in the sample, shape (neighbour,).
    """

    query: Query
    table: pa.Table
    places: NDArray[np.int64]


class Neighbourhood:
    """The latents of a run, to be asked for neighbours.

    Superseded observations, and spectra that could not be normalised, are no neighbours.

    Parameters
    ----------
    run
        A finished run.
    metric
        ``whitened``: Euclidean, with latents scaled by the covariance of the training split. A
        latent has no unit of its own, and any linear change of the latents leaves this distance as
        it is. ``noise``: Mahalanobis, with the covariance of the query's own latents: in units of
        what its noise does to it, so that directions which it measures badly count little.
        ``raw``: Euclidean in the latents as they are.
    approximate
        Search by NN-descent: for many queries of a large run. Not with ``noise``, whose scale is
        another for every query.
    """

    def __init__(
        self, run: Run, metric: Metric = "whitened", *, approximate: bool = False
    ) -> None:
        if approximate and metric == "noise":
            msg = (
                "--approximate with --metric noise: found a scale for each query, expected "
                "one for all. Leave one of them out."
            )
            raise UsageError(msg)
        run.require("train", "encode", "density")
        self.run, self.metric = run, metric_of(metric)
        self._index = run.index
        self._keys = column(self._index, "spectrum_key")
        self._encoded = run.objects("encode")
        usable = column(self._encoded, "usable").astype(bool)
        self._usable = usable
        self._rows = np.flatnonzero(usable & ~column(self._index, "superseded").astype(bool))
        self._latents = columns_of(self._encoded, "latent").astype(np.float64)
        rows = self._latents[self._rows]
        training = column(self._index, "split")[self._rows] == "train"
        self._search: LatentSearch | None = None
        self._scale = np.eye(rows.shape[1])
        if approximate:
            self._search = LatentSearch.build(
                rows, training, whiten=metric == "whitened", approximate=True
            )
        elif metric == "whitened":
            self._scale = unit_scale(np.atleast_2d(np.cov(rows[training], rowvar=False)))

    def of(self, what: str | Path, k: int = 10) -> Similar:
        """Find the k spectra nearest to one.

        Parameters
        ----------
        what
            Its spectrum_key, or a spectrum file (SDSS spec format), which is encoded as `apply`
            does.
        k
            Number of neighbours; the spectrum itself is not one of them.

        Raises
        ------
        UsageError
            If `k` is not positive, or there is no such spectrum or file.
        BadSpectrumError
            If the file cannot be used.
        """
        n = len(self._rows)
        query = self._query(what)
        # Of two reductions of one observation the newer alone is among the rows.
        itself = self._keys[self._rows] == query.name
        if not 1 <= k <= n - int(itself.sum()):
            most = n - int(itself.sum())
            msg = f"found k = {k}, expected 1 to {most}, the other spectra there are."
            raise UsageError(msg)
        nearest, distance = self._nearest(query, k + int(itself.sum()))
        other = ~itself[nearest]
        places = self._rows[nearest[other][:k]]
        return Similar(query, self._table(query, places, distance[other][:k]), places)

    def _nearest(self, query: Query, k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        if self._search is not None:
            found, distance = self._search.query(query.latents[None, :], k)
            return found[0], distance[0]
        scale = self._scale
        if self.metric == "noise":
            if query.covariance is None:
                msg = (
                    f"--metric noise: {self.run.path} stores no covariance of latents, expected "
                    "[encode] covariance = true. Use --metric whitened."
                )
                raise UsageError(msg)
            scale = unit_scale(query.covariance)
        return scan(self._latents[self._rows], query.latents, scale, k)

    def _query(self, what: str | Path) -> Query:
        path = Path(what)
        if path.is_file():
            return self._file(path)
        found = np.flatnonzero(self._keys == str(what))
        found = found[self._usable[found]]
        if not len(found):
            raise UsageError(self._unknown(str(what)))
        place = int(found[-1])
        flux, reconstruction = self.spectra(np.array([place]))
        return Query(
            name=str(what),
            latents=self._latents[place],
            covariance=self._covariance(place),
            sky_id=int(column(self._index, "sky_id")[place]),
            wave=self.run.sample.grid.centres,
            flux=flux[0],
            reconstruction=reconstruction[0],
            label=int(column(self._index, "label")[place]),
            z=float(column(self._index, "z")[place]),
        )

    def _unknown(self, name: str) -> str:
        example = self._keys[self._rows[0]] if len(self._rows) else "sdss:266-51602-1"
        return (
            f"{name!r}: found neither a file nor a usable spectrum of {self.run.path}; expected "
            f"the path of a spec file, or a key such as {example}. `spectra-scale export "
            f"{self.run.path} objects.csv` lists all keys; sample/dropped.parquet has those that "
            "a cut removed."
        )

    def _covariance(self, place: int) -> Floats | None:
        n = self._latents.shape[1]
        if "cov_0_0" not in self._encoded.column_names:
            return None
        found = np.empty((n, n))
        for i in range(n):
            for j in range(i, n):
                found[i, j] = found[j, i] = self._encoded[f"cov_{i}_{j}"][place].as_py()
        return found

    def _file(self, path: Path) -> Query:
        spectrum = encode_file(self.run, job_of(self.run), path)
        row, encoded = spectrum.row, spectrum.encoded
        assert encoded.reconstruction is not None
        return Query(
            name=str(row["spectrum_key"]),
            latents=encoded.latents[0].astype(np.float64),
            covariance=spectrum.covariance[0].astype(np.float64),
            sky_id=self._object_at(float(row["ra"]), float(row["dec"])),
            wave=spectrum.wave,
            flux=spectrum.shown,
            reconstruction=encoded.reconstruction[0],
            label=spectrum.label,
            z=spectrum.z,
            extrapolated=spectrum.extrapolated,
        )

    def _object_at(self, ra: float, dec: float) -> int:
        if not np.isfinite([ra, dec]).all():
            return _NOBODY
        near = np.flatnonzero(within(self._index, ra, dec, _SAME_OBJECT))
        return int(column(self._index, "sky_id")[near[0]]) if len(near) else _NOBODY

    def _table(
        self, query: Query, places: NDArray[np.int64], distance: NDArray[np.float32]
    ) -> pa.Table:
        rows = pa.array(places)
        facts = self._index.take(rows)
        scores = self.run.objects("density", ["log_prob", "p_value"]).take(rows)
        same = column(facts, "sky_id") == query.sky_id
        labels = [CLASS_NAMES[code] for code in column(facts, "label")]
        columns: dict[str, Any] = {"distance": pa.array(distance), "same_object": pa.array(same)}
        columns |= {name: facts[name] for name in _FACTS}
        columns |= {"label_name": pa.array(labels, pa.string())}
        columns |= {name: scores[name] for name in ("log_prob", "p_value")}
        return pa.table(columns)

    def spectra(
        self, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Normalised flux (NaN where masked) and reconstructions of rows of the sample."""
        from spectra_scale.models.generate import decode
        from spectra_scale.models.inputs import load_encoder

        model, inputs = load_encoder(self.run.folder("train"))
        pairs = [self.run.sample.read(slice(int(i), int(i) + 1)) for i in places]
        fed = inputs.apply(*(np.concatenate(part) for part in zip(*pairs, strict=True)))
        shown = np.where(fed.ivar > 0, fed.flux, np.float32(np.nan))
        return shown, decode(model, self._latents[places])


def metric_of(name: str) -> Metric:
    """A metric by its name.

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    for metric in METRICS:
        if metric == name:
            return metric
    msg = f"found metric {name!r}, expected one of {', '.join(METRICS)}."
    raise UsageError(msg)


def find_similar(run: Run, what: str | Path, k: int = 10, metric: Metric = "whitened") -> pa.Table:
    """The k spectra of a run nearest to one, as a table; see `Neighbourhood` for many queries.

    Parameters
    ----------
    run
        A finished run.
    what
        A spectrum_key, or a spectrum file.
    k
        Number of neighbours.
    metric
        ``whitened``, ``noise`` or ``raw``.
    """
    return Neighbourhood(run, metric).of(what, k).table


def draw_similar(hood: Neighbourhood, found: Similar, path: Path) -> None:
    """Draw a spectrum and its neighbours, with their reconstructions, as PNG."""
    from spectra_scale.figures import png_of, spectra_grid

    query = found.query
    flux, reconstruction = hood.spectra(found.places)
    records = found.table.to_pylist()
    titles = [f"query: {query.name}  z={query.z:.3f}"]
    for record in records:
        same = "  same object" if record["same_object"] else ""
        titles.append(
            f"{record['spectrum_key']}  z={record['z']:.3f}  d={record['distance']:.2f}{same}"
        )
    figure = spectra_grid(
        query.wave,
        np.concatenate([query.flux[None, :], flux]),
        [query.label, *(CLASS_NAMES.index(record["label_name"]) for record in records)],
        titles,
        reconstructions=np.concatenate([query.reconstruction[None, :], reconstruction]),
        heading=f"Spectra like {query.name}",
        unit="flux / normalisation",
    )
    write_bytes(path, png_of(figure))
