"""What the density stage writes of classes and of drift, and when it writes nothing."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from spectra_scale.config import DensitySection
from spectra_scale.models.drift import Scored
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.density import drifting
from spectra_scale.stages.density.classes import (
    CLASSES,
    CONDITIONAL,
    Rows,
    classify,
    column_name,
    load_conditional,
)

CONFIG = DensitySection(conditional_layers=4, subsample=500)
DIMS = 3
SHARE = np.array([0.05, 0.3, 0.15, 0.1, 0.1, 0.2, 0.1])
CENTRES = np.random.default_rng(1).normal(0, 2.5, (7, DIMS))


def rows(n: int = 1200, seed: int = 0) -> Rows:
    """Six classes at different places, some objects of none, two that cannot be scored."""
    rng = np.random.default_rng(seed)
    label = rng.choice(7, n, p=SHARE)
    latents = CENTRES[label] + rng.standard_normal((n, DIMS))
    usable = np.ones(n, dtype=bool)
    usable[[3, 40]] = False
    latents[~usable] = np.nan
    training = (np.arange(n) % 3 > 0) & usable
    return Rows(latents, label.astype(np.int64), usable, training, ~training & usable)


def scored(n: int, seed: int, shift: float = 0.0) -> Scored:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, DIMS)) + shift
    return Scored(
        x, -0.5 * (x**2).sum(axis=1), rng.integers(0, 7, n), rng.random(n), 1 + rng.random(n)
    )


def test_every_usable_object_gets_the_posterior_of_every_class(tmp_path):
    given = rows()
    columns, metrics = classify(given, CONFIG, None, tmp_path)
    names = [column_name(code) for code in CLASSES]
    assert list(columns) == [*names, "class_posterior_best", "log_prob_in_class"]
    posterior = np.stack([columns[name] for name in names], axis=1)
    np.testing.assert_allclose(posterior[given.usable].sum(axis=1), 1.0, rtol=1e-12)
    assert np.isnan(posterior[~given.usable]).all()
    best = columns["class_posterior_best"]
    np.testing.assert_array_equal(
        best[given.usable], np.array(CLASSES)[posterior[given.usable].argmax(axis=1)]
    )
    assert set(best[~given.usable]) == {0}
    # Without a class there is no density in it.
    own = columns["log_prob_in_class"]
    np.testing.assert_array_equal(np.isfinite(own), given.usable & (given.label > 0))
    scores = metrics["reliability"]
    assert scores["n"] == np.sum(given.validation & (given.label > 0))
    # Classes are unit Gaussians about their centres: the best rule is known. 0.015 is one sigma.
    judged = given.validation & (given.label > 0)
    distance = ((given.latents[judged, None] - CENTRES[1:]) ** 2).sum(axis=2)
    ideal = 1 + np.argmax(np.log(SHARE[1:]) - 0.5 * distance, axis=1)
    assert scores["accuracy"] > np.mean(ideal == given.label[judged]) - 0.045
    assert set(metrics["mean log_prob in class"]) == set(CLASS_NAMES[1:])
    assert sum(metrics["prior"].values()) == pytest.approx(1.0)
    json.dumps(metrics)


def test_column_names_hold_nothing_but_small_letters_and_underscores():
    assert all(column_name(code).replace("_", "").isalpha() for code in CLASSES)
    assert all(column_name(code).islower() for code in CLASSES)


def test_a_fitted_flow_gives_the_same_posteriors_to_the_same_objects(tmp_path):
    given = rows()
    first, _ = classify(given, CONFIG, None, tmp_path / "one")
    off = DensitySection(conditional=False)  # settings of a fit do not matter to a fitted one
    again, metrics = classify(given, off, tmp_path / "one", tmp_path / "two")
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
    same = [(tmp_path / name / CONDITIONAL).read_bytes() for name in ("one", "two")]
    assert same[0] == same[1]
    assert metrics["reliability"]["n"] == np.sum(given.usable & (given.label > 0))
    assert load_conditional(tmp_path / "two").settings.seed == CONFIG.seed


def test_too_few_objects_of_the_classes_are_no_crash_but_a_reason(tmp_path, caplog):
    given = rows(60)
    one = Rows(
        given.latents, np.ones(60, np.int64), given.usable, given.training, given.validation
    )
    with caplog.at_level(logging.WARNING):
        columns, metrics = classify(one, CONFIG, None, tmp_path)
    assert columns == {}
    assert "two classes with 10" in metrics["skipped"]
    assert "no conditional density" in caplog.text
    assert not (tmp_path / CONDITIONAL).exists()
    columns, metrics = classify(given, DensitySection(conditional=False), None, tmp_path)
    assert (columns, metrics) == ({}, {"skipped": "[density] conditional is false"})
    columns, metrics = classify(given, CONFIG, tmp_path, tmp_path / "new")
    assert columns == {}
    assert "has no conditional flow" in metrics["skipped"]


def test_later_runs_are_compared_with_the_objects_that_were_kept(tmp_path):
    old = scored(300, 2)
    drifting.keep_reference(tmp_path / "old", old, seed=1)
    found = drifting.compare(tmp_path / "old", scored(200, 3, shift=1.0), tmp_path / "new")
    # E log p falls by D / 2 nats.
    assert found["log_prob"]["difference"] == pytest.approx(
        -0.5 * DIMS, abs=4 * found["log_prob"]["error"]
    )
    assert found["latents"]["energy_p"] == 0.001
    assert set(found["by_class"]) <= set(CLASS_NAMES)
    assert json.loads((tmp_path / "new" / drifting.DRIFT).read_text()) == found
    # A run that starts from the new one is compared with the same objects.
    files = [(tmp_path / name / drifting.REFERENCE).read_bytes() for name in ("old", "new")]
    assert files[0] == files[1]


def test_what_is_kept_for_later_is_bounded(tmp_path):
    drifting.keep_reference(tmp_path, scored(12_000, 4), seed=1)
    size = (tmp_path / drifting.REFERENCE).stat().st_size
    assert size < 10_000 * 8 * (DIMS + 4) + 2000
    drifting.keep_reference(tmp_path / "again", scored(12_000, 4), seed=1)
    assert (tmp_path / "again" / drifting.REFERENCE).stat().st_size == size


def test_a_density_of_an_earlier_version_is_compared_with_nothing(tmp_path):
    found = drifting.compare(tmp_path, scored(50, 5), tmp_path / "new")
    assert "kept no objects" in found["skipped"]
    assert not (tmp_path / "new" / drifting.DRIFT).exists()
