"""Generated spectra: they are what flow and decoder say, and the check can tell real from not."""

import numpy as np
import pytest
from latent_builders import trained_model
from pipeline_builders import copy_of_run
from test_cli import call

import spectra_scale as ss
from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.generate import generate_spectra
from spectra_scale.models.generate import decode, generate, realism, two_sample
from spectra_scale.models.inputs import load_encoder
from spectra_scale.spectrum.classify import CLASS_NAMES
from spectra_scale.spectrum.grid import WavelengthGrid
from spectra_scale.stages.density import load_flow
from spectra_scale.stages.density.classes import CONDITIONAL, load_conditional


class Normal:
    """The standard normal density: what is asked of a flow, and no more."""

    def __init__(self, n_dimensions):
        self.n_dimensions = n_dimensions

    def sample(self, n, generator):
        return generator.standard_normal((n, self.n_dimensions))

    def log_prob(self, x):
        return -0.5 * (np.asarray(x) ** 2).sum(axis=1) - 0.919 * self.n_dimensions


@pytest.fixture(scope="module")
def model():
    return trained_model()


def by_hand(model, z):
    """The decoder in float64 NumPy."""
    for i, layer in enumerate(m for m in model.decoder if hasattr(m, "weight")):
        z = np.maximum(z, 0) if i else z
        z = z @ layer.weight.detach().numpy().astype("f8").T + layer.bias.detach().numpy()
    return z


def test_a_generated_spectrum_is_the_decoded_sample_of_the_density(model):
    made = generate(model, Normal(3), 5000, seed=4)
    expected = np.random.default_rng(4).standard_normal((5000, 3))
    np.testing.assert_array_equal(made.latents, expected)
    np.testing.assert_array_equal(made.log_prob, Normal(3).log_prob(expected))
    # float32 against float64: a few hundred products a pixel.
    np.testing.assert_allclose(made.flux, by_hand(model, expected), rtol=1e-4, atol=1e-4)
    again, other = generate(model, Normal(3), 5000, 4), generate(model, Normal(3), 5000, 5)
    np.testing.assert_array_equal(again.flux, made.flux)
    assert not np.array_equal(other.flux, made.flux)


def test_a_density_of_another_dimension_is_refused(model):
    with pytest.raises(SpectraScaleError, match=r"4 dimensions, the auto-encoder 3"):
        generate(model, Normal(4), 10, 1)


# The check ---------------------------------------------------------------------------------------


def test_samples_of_one_distribution_cannot_be_told_apart():
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((2, 800, 5))
    found = two_sample(a, b, seed=1)
    assert found.n == 800
    assert abs(found.auc - 0.5) < 4 * found.auc_error
    assert found.neighbours_p > 0.001
    assert found.same_neighbours == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", ["shifted", "without correlation", "narrow"])
def test_samples_of_two_distributions_are_told_apart(kind):
    rng = np.random.default_rng(7)
    mixing = np.eye(5) + 0.9 * np.eye(5, k=1)
    real = rng.standard_normal((1500, 5)) @ mixing.T
    made = rng.standard_normal((1500, 5)) @ mixing.T
    if kind == "shifted":
        made += 0.7
    elif kind == "narrow":
        made *= 0.6
    else:  # every marginal is right
        made = np.stack([rng.permutation(column) for column in made.T], axis=1)
    found = two_sample(made, real, seed=1)
    assert found.auc - 0.5 > 5 * found.auc_error
    assert found.neighbours_p < 0.01


def test_too_few_spectra_are_not_judged():
    with pytest.raises(SpectraScaleError, match=r"found 49 and 400 rows"):
        two_sample(np.zeros((49, 3)), np.zeros((400, 3)), 1)


def test_indices_of_good_and_of_bad_samples_differ_as_they_should():
    model = trained_model(n_pixels=1000, steps=5)
    rng = np.random.default_rng(3)
    real, training = rng.standard_normal((2, 200, 3))
    wave = WavelengthGrid.rest_frame().centres
    good = realism(wave, model, generate(model, Normal(3), 200, 1), (real, training), 1)
    shifted = generate(model, Normal(3), 200, 1, lambda n, g: g.standard_normal((n, 3)) + 2.0)
    bad = realism(wave, model, shifted, (real, training), 1)
    for each, worse in zip(good.indices, bad.indices, strict=True):
        # Kolmogorov's distance at p = 1e-4 for 200 and 200 is 0.22.
        assert each.distance < 0.22
        assert each.floor < 0.22
        assert worse.floor == each.floor
    assert max(each.distance for each in bad.indices) > 0.3
    assert bad.latents.auc > 0.8
    assert good.latents.auc < 0.6


# A run -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_file_holds_what_the_runs_flow_and_decoder_give(tiny_run, capsys, tmp_path):
    from astropy.io import fits

    run, out, figure = tiny_run.run, tmp_path / "made.fits", tmp_path / "made.png"
    code, text, _ = call(capsys, "generate", run.path, "--n", 300, "--seed", 3, "--out", out,
                         "--figure", figure, "--check")  # fmt: skip
    assert code == 0
    assert "D4000n" in text
    assert "latents: AUC" in text
    assert figure.read_bytes().startswith(b"\x89PNG")
    flow, _ = load_flow(run.folder("density"))
    model, _ = load_encoder(run.folder("train"))
    latents = flow.sample(300, np.random.default_rng(3))
    with fits.open(out) as file:
        table, pixels = file["SPECTRA"].data, file["WAVELENGTH"]
        assert file["WAVELENGTH"].columns["wavelength"].unit == "Angstrom"
        np.testing.assert_array_equal(pixels.data["wavelength"], run.sample.grid.centres)
        np.testing.assert_array_equal(table["latents"], latents)
        np.testing.assert_array_equal(table["log_prob"], flow.log_prob(latents))
        np.testing.assert_array_equal(table["flux"], decode(model, latents))
        assert file["SPECTRA"].header["GENERATED SEED"] == "3"
    call(capsys, "generate", run.path, "--n", 300, "--seed", 3, "--out", tmp_path / "made.npz")
    with np.load(tmp_path / "made.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["latents"], latents)
        assert str(arrays["seed"]) == "3"


@pytest.mark.slow
def test_what_cannot_be_generated_is_wrong_usage(tiny_run, capsys, tmp_path):
    path = tiny_run.run.path
    (tmp_path / "there.fits").write_bytes(b"")
    cases = [
        ((), "nothing to do"),
        (("--out", tmp_path / "x.csv"), "expected one of .fits, .npz"),
        (("--out", tmp_path / "there.fits"), "exists already"),
        (("--label", "blazar", "--out", tmp_path / "y.fits"), "found class 'blazar'"),
        (("--label", "star-forming", "--check"), "Leave one out"),
    ]
    for arguments, words in cases:
        code, out, err = call(capsys, "generate", path, *arguments)
        assert (code, out) == (2, "")
        assert words in err
    assert list(tmp_path.iterdir()) == [tmp_path / "there.fits"]
    with pytest.raises(UsageError, match="at least one spectrum"):
        ss.generate_spectra(tiny_run.run, 0)


@pytest.mark.slow
def test_spectra_of_a_class_are_drawn_from_its_density(tiny_run, tmp_path):
    run = tiny_run.run
    made = generate_spectra(run, 50, 2, "passive")
    by_class = load_conditional(run.folder("density"))
    code = CLASS_NAMES.index("passive")
    expected = by_class.sample(50, code, np.random.default_rng(2))
    np.testing.assert_array_equal(made.latents, expected)
    assert list(made.posterior) == list(CLASS_NAMES[1:])
    np.testing.assert_allclose(sum(made.posterior.values()), 1.0)
    # The density that scores is that of all classes.
    flow, _ = load_flow(run.folder("density"))
    np.testing.assert_array_equal(made.log_prob, flow.log_prob(expected))
    bare = copy_of_run(run, tmp_path)
    (bare.folder("density") / CONDITIONAL).unlink()
    with pytest.raises(UsageError, match="no class can be asked for"):
        generate_spectra(bare, 5, 2, "passive")


@pytest.mark.slow
def test_the_report_shows_generated_spectra_and_how_real_they_are(tiny_run):
    page = (tiny_run.run.folder("report") / "index.html").read_text()
    assert "none was observed" in page
    assert "Generated beside held-out spectra" in page
