"""The model card: its numbers are those of the weights, and it says what they do not know."""

import json
import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from pipeline_builders import index_of, low_rank_spectra, make_sample
from safetensors.numpy import load_file
from test_train_stage import run

from spectra_scale.models.autoencoder import encode
from spectra_scale.models.baseline import WeightedPCA
from spectra_scale.models.inputs import load_encoder
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.stages.train.card_text import CARD, PAGE, limits, page, summary
from spectra_scale.stages.train.score import SNR_EDGES
from spectra_scale.status import card_lines
from spectra_scale.store.artifact import check_files
from spectra_scale.store.objects import column

N, N_PIXELS = 300, 60
FOUR = ("chi2", "chi2_valid", "chi2_uncapped", "chi2_valid_uncapped")


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """No spectrum is broad-line, one in thirty is composite; S/N from 0 to 60, some not known."""
    flux, ivar = low_rank_spectra(N, N_PIXELS)
    rng = np.random.default_rng(4)
    label = rng.choice([0, 1, 3, 5, 6], N).astype("i1")
    label[::30] = 2
    snr = rng.uniform(0, 60, N)
    snr[3], snr[7], snr[11] = 5.0, 50.0, np.nan
    release = np.where(np.arange(N) < 100, "dr7", "dr17")
    index = index_of(N, label=label, snr_median=snr, survey=["sdss"] * N,
                     reduction=["26"] * N, masked_fraction=(ivar == 0).mean(axis=1))  # fmt: skip
    at = index.column_names.index("release")
    index = index.set_column(at, "release", pa.array(release.astype(object)))
    return make_sample(tmp_path_factory.mktemp("card") / "sample", flux, ivar, index=index)


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    from spectra_scale.compute.place import Here

    return run(sample, tmp_path_factory.mktemp("trained") / "ae", Here())


def card_of(artifact):
    return json.loads((artifact.path / CARD).read_text())


def test_scores_are_those_of_the_last_epoch_and_of_the_baseline(trained):
    card, last = card_of(trained), trained.metrics["last epoch"]
    every = card["validation"]["all"]
    # Five digits are kept.
    for name in FOUR:
        assert every[name] == pytest.approx(last[f"validation_{name}"], rel=1e-4)
        assert card["training"]["that epoch"][f"validation_{name}"] == last[f"validation_{name}"]
    said = trained.metrics["baseline"]
    for name in ("chi2_uncapped", "chi2_valid_uncapped"):
        assert every[f"linear_{name}"] == pytest.approx(said[f"validation_{name}"], rel=1e-4)
    assert every["n"] == 75


def test_scores_by_class_and_by_signal_to_noise_are_means_of_these_spectra(sample, trained):
    scores = card_of(trained)["validation"]
    model, inputs = load_encoder(trained.path)
    stored = load_file(trained.path / "baseline.safetensors")
    rows = sample.validation_rows()
    flux, ivar = (a[rows] for a in sample.read(slice(0, N)))
    flux, ivar = inputs.apply(flux, ivar)[:2]
    ours = encode(model, flux, ivar)
    linear = WeightedPCA(stored["mean"], stored["components"]).chi2(flux, ivar)
    label = column(sample.index, "label")[rows]
    snr = np.nan_to_num(column(sample.index, "snr_median")[rows])
    groups = {
        "by class": {name: label == code for code, name in enumerate(CLASS_NAMES)},
        "by snr_median": {
            "below 5": snr < 5,
            **{f"{a:g} to {b:g}": (snr >= a) & (snr < b)
               for a, b in pairwise(SNR_EDGES[1:])},
            "50 and more": snr >= 50,
        },
    }  # fmt: skip
    for kind, members in groups.items():
        # Groups nobody is in are left out; the others are all there, in order.
        assert list(scores[kind]) == [name for name, inside in members.items() if inside.any()]
        assert sum(row["n"] for row in scores[kind].values()) == rows.sum()
        for name, row in scores[kind].items():
            inside = members[name]
            assert row["n"] == inside.sum()
            expected = {
                "chi2_uncapped": ours.chi2,
                "chi2_valid_uncapped": ours.chi2_valid,
                "linear_chi2_uncapped": linear.chi2,
                "linear_chi2_valid_uncapped": linear.chi2_valid,
            }
            for key, values in expected.items():
                assert row[key] == pytest.approx(values[inside].mean(dtype="f8"), rel=1e-4), name
            assert row["chi2"] <= row["chi2_uncapped"] * (1 + 1e-4)
    assert "broad-line" not in scores["by class"]


def test_the_same_weights_have_the_same_card_wherever_it_is_made(sample, trained, here, tmp_path):
    from spectra_scale.compute.place import open_place
    from spectra_scale.config import ComputeSection

    with open_place(ComputeSection(engine="threads", workers=2)) as threads:
        for name, place in (("here", here), ("threads", threads)):
            again = run(sample, tmp_path / name, place)
            for file in (CARD, PAGE):
                mine, theirs = ((a.path / file).read_bytes() for a in (again, trained))
                assert mine == theirs, (name, file)
    text = (trained.path / PAGE).read_text() + (trained.path / CARD).read_text()
    assert str(tmp_path.parent) not in text
    assert not re.search(r"20\d\d-\d\d-\d\d", text), "a card has no date"


def test_facts_are_those_of_the_training_rows(sample, trained):
    facts = card_of(trained)["sample"]
    rows = sample.training_rows()
    z, label = (column(sample.index, name)[rows] for name in ("z", "label"))
    # Four digits are kept.
    assert facts["z"]["least"] == pytest.approx(z.min(), rel=1e-3)
    assert facts["z"]["most"] == pytest.approx(z.max(), rel=1e-3)
    assert facts["z"]["50 %"] == pytest.approx(np.median(z), rel=1e-3)
    for code, name in enumerate(CLASS_NAMES):
        assert facts["classes"][name]["train"] == (label == code).sum()
    assert facts["counts"] == {"train": 225, "validation": 75, "unusable": 0}
    assert facts["releases"]["dr7"] == {
        "survey": ["sdss"], "reductions": ["26"], "train": 75, "validation": 25
    }  # fmt: skip
    assert list(facts["releases"]) == ["dr17", "dr7"]
    assert facts["grid"] == {"n_pixels": 60, "first edge": 3388.0, "last edge": 8318.0,
                             "unit": "Angstrom, vacuum, rest frame"}  # fmt: skip
    assert (facts["preset"], facts["mask"]) == ("conserve", "strict")
    assert card_of(trained)["versions"]["spectra-scale"]


def test_limits_name_the_classes_it_has_seen_little_or_nothing_of(trained):
    card = card_of(trained)
    assert card["limits"] == limits(card)
    assert card["limits"][:2] == [
        "It has seen no broad-line spectrum.",
        "It has seen fewer than 100 spectra of every class: take it for an exercise.",
    ]
    card["sample"]["classes"] |= {
        name: {"train": 5000, "validation": 900} for name in ("passive", "star-forming", "retired")
    }
    n = card["sample"]["classes"]["composite"]["train"]
    assert f"composite ({n}) and narrow-line AGN" in " ".join(limits(card))
    card["training"]["classes"] = ["passive"]
    scores = card["validation"]["by class"]
    scores["passive"] |= {"chi2_uncapped": 2.0, "linear_chi2_uncapped": 1.0}
    scores["retired"] |= {"chi2_uncapped": 1.0, "linear_chi2_uncapped": 2.0}
    said = limits(card)
    assert said[0] == "It was trained on passive alone, by choice."
    assert any("linear baseline" in line and "passive" in line for line in said)
    assert any("one survey (sdss)" in line for line in said)


def test_the_page_is_markdown_with_whole_tables(trained):
    text = (trained.path / PAGE).read_text()
    assert text == page(card_of(trained))
    assert text.startswith("# Model card: auto-encoder 60–24–12–3–12–24–60\n")
    tables = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    assert len(tables) == 5
    for lines in (table.strip().split("\n") for table in tables):
        assert len({line.count("|") for line in lines}) == 1
        assert set(lines[1]) <= set("|-: ")
    assert not re.search(r"\bnan\b|None|\{|\}", text)


def test_the_weights_of_an_early_stop_are_judged(sample, here, tmp_path):
    made = run(sample, tmp_path / "ae", here, epochs=12, patience=2, min_gain=0.5, n_latent=2)
    card = card_of(made)["training"]
    assert card["epochs"] < 12
    assert card["weights of epoch"] == card["epochs"] - 2
    every = card_of(made)["validation"]["all"]
    assert every["chi2"] == pytest.approx(card["that epoch"]["validation_chi2"], rel=1e-4)


def test_a_second_stage_is_judged_with_its_first(sample, here, tmp_path):
    made = run(sample, tmp_path / "ae", here, epochs=2, inpaint_epochs=1)
    last = made.metrics["last epoch"]["validation_chi2"]
    assert card_of(made)["validation"]["all"]["chi2"] == pytest.approx(last, rel=1e-4)


def test_a_loss_that_learns_outliers_says_how_many(sample, here, tmp_path):
    made = run(sample, tmp_path / "ae", here, epochs=2, loss="mixture_density")
    share = load_file(made.path / "loss.safetensors")["outlier_fraction"]
    said = card_of(made)["training"]["outliers"]["outlier_fraction"]
    assert said["most"] == pytest.approx(share.max(), rel=1e-3)
    assert "Outliers that the loss has learnt: a share of" in (made.path / PAGE).read_text()


def test_status_shows_it_and_verify_checks_it(trained, tmp_path):
    assert {CARD, PAGE} <= set(trained.manifest["files"])
    assert check_files(trained) > 5
    (line,) = card_lines(trained.path.parent)
    assert line.startswith(f"auto-encoder {trained.path.parent.name}/ae: χ² ")
    assert summary(card_of(trained)) in line
    assert "of 75 held-out spectra; linear baseline" in line
    assert card_lines(tmp_path) == []
