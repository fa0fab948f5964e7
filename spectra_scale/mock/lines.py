"""Narrow emission lines: the list, and intrinsic ratios from a position in the BPT diagram."""

from __future__ import annotations

import numpy as np

from spectra_scale.mock.population import Floats

# Vacuum wavelengths (Å). The first 28 are the lines of the Portsmouth table, in its order.
LINES: tuple[tuple[str, float], ...] = (
    ("HeII3203", 3204.03), ("NeV3345", 3346.79), ("NeV3425", 3426.86), ("OII3726", 3727.09),
    ("OII3728", 3729.88), ("NeIII3868", 3869.86), ("NeIII3967", 3968.59), ("H5_3889", 3890.16),
    ("He_3970", 3971.20), ("Hd4101", 4102.89), ("Hg4340", 4341.68), ("OIII4363", 4364.44),
    ("HeII4685", 4686.99), ("ArIV4711", 4712.69), ("ArIV4740", 4741.53), ("Hb4861", 4862.683),
    ("OIII4958", 4960.295), ("OIII5006", 5008.240), ("NI5197", 5199.35), ("NI5200", 5201.71),
    ("HeI5875", 5877.25), ("OI6300", 6302.046), ("OI6362", 6365.535), ("NII6547", 6549.859),
    ("Ha6562", 6564.614), ("NII6583", 6585.268), ("SII6716", 6718.294), ("SII6730", 6732.678),
    ("H3835", 3836.48), ("HeI4471", 4472.73), ("NII5755", 5756.19), ("SIII6312", 6313.81),
    ("HeI6678", 6679.99), ("HeI7065", 7067.13), ("ArIII7135", 7137.76), ("OII7320", 7321.94),
    ("OII7330", 7332.21), ("ArIII7751", 7753.23), ("SIII9069", 9071.1), ("SIII9531", 9533.2),
    ("FeVII6087", 6088.7), ("FeVI5145", 5147.2), ("FeVII5158", 5160.3),
    ("SII4068", 4069.75), ("SII4076", 4077.50),
)  # fmt: skip
N_PORTSMOUTH = 28
LINE_WAVE: Floats = np.array([wave for _, wave in LINES])
HB, OIII, HA, NII = 15, 17, 24, 25


def calzetti(wave: Floats) -> Floats:
    """Attenuation A(λ)/A(V) of Calzetti et al. (2000), eq. 4, `wave` in Å.

    Continued below 0.12 and above 2.2 micron by its end values.
    """
    x = 1e4 / np.clip(wave, 1200.0, 22000.0)
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 * x) + 4.05
    return np.asarray(np.where(x > 1 / 0.63, blue, red) / 4.05)


def attenuation(wave: Floats, slope: Floats) -> Floats:
    """A(λ)/A(V): Calzetti's curve times (λ/5500 Å)^δ (Noll et al. 2009, without the bump).

    Parameters
    ----------
    wave
        Å.
    slope
        δ, broadcast against `wave`.
    """
    return np.asarray(calzetti(wave) * (wave / 5500.0) ** slope)


def kauffmann(x: Floats) -> Floats:
    """Kauffmann et al. (2003) demarcation, log [O III]/Hβ at x = log [N II]/Hα < 0.05."""
    return np.asarray(0.61 / (np.minimum(x, 0.04) - 0.05) + 1.30)


def kewley(x: Floats) -> Floats:
    """Kewley et al. (2001) demarcation, log [O III]/Hβ at x = log [N II]/Hα < 0.47."""
    return np.asarray(0.61 / (np.minimum(x, 0.46) - 0.47) + 1.19)


def line_ratios(x: Floats, y: Floats, hard: Floats, rng: np.random.Generator) -> Floats:
    """Intrinsic fluxes of all lines relative to Hα.

    Parameters
    ----------
    x, y
        log [N II]6585/Hα and log [O III]5008/Hβ, shape (object,).
    hard
        Hardness of the ionising source: 0 H II regions, 1 an active nucleus.
    rng
        Draws scatter of 0.08 dex in the lines that x and y do not fix.

    Returns
    -------
        Shape (object, line), in the order of `LINES`.
    """
    n = len(x)
    beta = 1 / (2.86 + 0.24 * hard)
    oiii = beta * 10**y
    # Where ionisation is low for its hardness, as in LINERs, neutral and single ions shine.
    low = np.clip(0.75 - y, 0, 1) * hard
    oii = beta * 10 ** (0.47 - 2.4 * (x + 0.75) ** 2 * (1 - hard) + 0.25 * low)
    oi = 10 ** (-1.62 + 0.15 * (x + 0.6) + 0.55 * hard + 0.4 * low)
    sii = 10 ** (-0.47 - 0.5 * np.clip(x + 0.45, 0, 1) + hard * (0.18 + 0.25 * low))
    density = 1.38 - 0.18 * hard
    helium = 0.008 * (1 - hard) + hard * 0.22 * np.clip(y, 0, 1)
    neon = oiii * (0.072 + 0.10 * hard)
    f = {
        "HeII4685": beta * helium, "HeII3203": beta * helium * 0.42,
        "NeV3345": oiii * 0.065 * hard * np.clip(y, 0, 1),
        "NeV3425": oiii * 0.16 * hard * np.clip(y, 0, 1),
        "OII3726": oii / (1 + density), "OII3728": oii * density / (1 + density),
        "NeIII3868": neon, "NeIII3967": neon * 0.31, "H5_3889": beta * 0.125,
        "He_3970": beta * 0.159, "Hd4101": beta * 0.259, "Hg4340": beta * 0.468,
        "OIII4363": oiii * 10 ** (-2.35 - 0.9 * np.clip(x + 1.3, 0, 1) * (1 - hard) + 0.85 * hard),
        "ArIV4711": oiii * 0.006 * hard, "ArIV4740": oiii * 0.005 * hard, "Hb4861": beta,
        "OIII4958": oiii / 2.98, "OIII5006": oiii, "NI5197": oi * 0.06 * (1 + hard),
        "NI5200": oi * 0.07 * (1 + hard),
        "HeI5875": np.full(n, 0.028), "OI6300": oi, "OI6362": oi * 0.33, "NII6547": 10**x / 2.96,
        "Ha6562": np.ones(n), "NII6583": 10**x, "SII6716": sii * density / (1 + density),
        "SII6730": sii / (1 + density), "H3835": beta * 0.073, "HeI4471": beta * 0.028,
        "NII5755": 10**x * 0.011, "SIII6312": np.full(n, 0.0012), "HeI6678": np.full(n, 0.0105),
        "HeI7065": np.full(n, 0.008), "ArIII7135": oiii * 0.010 + 0.010,
        "OII7320": oii * (0.009 + 0.006 * hard), "OII7330": oii * (0.007 + 0.005 * hard),
        "ArIII7751": oiii * 0.0024 + 0.001,
        "SIII9069": 0.06 + 0.02 * oiii, "SIII9531": 0.15 + 0.05 * oiii,
        "FeVII6087": oiii * 0.03 * hard, "FeVI5145": oiii * 0.005 * hard,
        "FeVII5158": oiii * 0.009 * hard, "SII4068": sii * 0.015 * (1 + 3 * hard),
        "SII4076": sii * 0.005 * (1 + 3 * hard),
    }  # fmt: skip
    ratios = np.stack([f[name] for name, _ in LINES], axis=1)
    # x, y and the recombination lines stay: the others scatter from galaxy to galaxy.
    names = np.array([name for name, _ in LINES])
    fixed = np.char.startswith(names, "H") | np.isin(names, ("OIII4958", "OIII5006"))
    fixed |= np.isin(names, ("NII6547", "NII6583"))
    scatter = np.where(fixed, 0.0, 0.08) * rng.standard_normal((n, 1))
    return np.asarray(ratios * 10**scatter)
