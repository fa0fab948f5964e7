"""Settings of a mock release: what it contains, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spectra_scale.errors import UsageError
from spectra_scale.mock.kinds import SELECTED, SHARES
from spectra_scale.mock.task import SURVEYS, MockTask, Survey

__all__ = [
    "MockSettings",
    "MockTask",
    "as_dict",
    "chosen_fractions",
    "default_spec_files",
    "plan",
    "survey_fractions",
    "whole_numbers",
]

#: RUN2D of SDSS-V by release.
SDSSV_RUN2D = {"dr18": "v6_0_4", "dr19": "v6_1_3", "dr20": "v6_2_1"}


@dataclass(frozen=True, slots=True)
class MockSettings:
    """Settings of a mock release.

    Parameters
    ----------
    n_spectra
        Rows of the catalogues: science spectra, repeats and contaminants included, sky not.
    n_spec_files
        How many of them are written one a file (spec-lite); the others are in plate files.
    boss_fraction
        Share of the spectra from the BOSS spectrograph (3600-10400 Å, RUN2D ``v5_13_2``).
    seed
        Seed of everything random.
    star_fraction, out_of_range_fraction, bad_redshift_fraction
        Shares of what a selection should remove: stars, redshifts outside 0.05-0.36, ZWARNING > 0.
    repeat_fraction
        Share of the spectra that observe objects of another plate again, or of the other program
        of a DESI healpixel, shared equally by the surveys that the release has.
    no_lines_fraction
        Share of galaxies without a row in the line table.
    artefact_fraction
        Share of spectra with a known fault: sky residuals, a calibration step, a lost half.
    fibers_legacy, fibers_boss
        Fibres of a plate, sky fibres included.
    sky_fraction
        Share of a plate's fibres on blank sky.
    desi_fraction
        Share of the spectra from DESI (3600-9824 Å, three arms, healpixels of nside 64 of the
        bright and the dark program); what neither BOSS nor DESI nor SDSS-V has is legacy
        (3800-9200 Å, RUN2D ``26``).
    n_full_files
        How many of the spec files have the HDUs of the single exposures too (spec-full).
    fibers_desi
        Targets of a healpixel of one program, sky fibres included.
    blend_fraction, star_as_galaxy_fraction, cosmic_ray_fraction
        Shares of spectra with light of a second object, of stars that the pipeline calls galaxies,
        and of spectra with a cosmic ray that was not rejected.
    missing_arm_fraction
        Share of healpixels whose coadd lacks one arm.
    class_fractions
        Shares of the kinds of `kinds.KINDS` among the objects that are no contaminants; those not
        named have none. None for the paper's.
    sdssv_fraction
        Share of the spectra from SDSS-V: one file each, from the BOSS spectrograph.
    sdssv_release
        Which reduction of them, and whose names: ``dr18``, ``dr19`` or ``dr20``. The spectra and
        their keys are the same in all, the reduction differs a little.
    sdssv_repeat_fraction
        Share of the SDSS-V spectra whose objects a plate of the release observes too, legacy or
        BOSS.
    fibers_sdssv
        Fibres of a field.
    """

    n_spectra: int = 5000
    n_spec_files: int = 200
    boss_fraction: float = 0.25
    seed: int = 1
    star_fraction: float = 0.02
    out_of_range_fraction: float = 0.02
    bad_redshift_fraction: float = 0.01
    repeat_fraction: float = 0.01
    no_lines_fraction: float = 0.0014
    artefact_fraction: float = 0.02
    fibers_legacy: int = 640
    fibers_boss: int = 1000
    sky_fraction: float = 0.05
    desi_fraction: float = 0.0
    n_full_files: int = 0
    fibers_desi: int = 500
    blend_fraction: float = 0.003
    star_as_galaxy_fraction: float = 0.002
    cosmic_ray_fraction: float = 0.003
    missing_arm_fraction: float = 0.01
    class_fractions: Mapping[str, float] | None = None
    sdssv_fraction: float = 0.0
    sdssv_release: str = "dr19"
    sdssv_repeat_fraction: float = 0.05
    fibers_sdssv: int = 500

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name.endswith("_fraction") and not 0 <= value <= 1:
                message = f"{name}={value}: expected a share between 0 and 1."
                raise UsageError(message)
        self._check_numbers()
        if self.boss_fraction + self.desi_fraction + self.sdssv_fraction > 1 + 1e-9:
            message = (
                f"boss_fraction={self.boss_fraction}, desi_fraction={self.desi_fraction} and "
                f"sdssv_fraction={self.sdssv_fraction} are more than all spectra together. Lower "
                "one of them."
            )
            raise UsageError(message)
        if self.sdssv_release not in SDSSV_RUN2D:
            message = (
                f"sdssv_release={self.sdssv_release!r}: expected one of {', '.join(SDSSV_RUN2D)}."
            )
            raise UsageError(message)
        if self.class_fractions is not None:
            _check_classes(self.class_fractions)

    def _check_numbers(self) -> None:
        if self.n_spectra < 1 or not 0 <= self.n_spec_files <= self.n_spectra:
            message = (
                f"n_spectra={self.n_spectra}, n_spec_files={self.n_spec_files}: need at least one "
                "spectrum, and no more spec files than spectra. Change either."
            )
            raise UsageError(message)
        n_sdss = self.n_spectra - round(self.desi_fraction * self.n_spectra) - self.n_sdssv
        if not 0 <= self.n_full_files <= self.n_spec_files <= max(n_sdss, 0):
            message = (
                f"n_full_files={self.n_full_files}, n_spec_files={self.n_spec_files}, and "
                f"{n_sdss} spectra that are neither DESI's nor SDSS-V's: full files are some of "
                "the spec files, and those are of legacy and BOSS spectra. Ask for fewer."
            )
            raise UsageError(message)
        fibers = {name: value for name, value in asdict(self).items() if name.startswith("fibers")}
        if min(fibers.values()) < 2 or self.sky_fraction > 0.5:
            words = ", ".join(f"{name}={value}" for name, value in fibers.items())
            message = (
                f"{words}, sky_fraction={self.sky_fraction}: a plate needs two fibres, half of "
                "them on objects."
            )
            raise UsageError(message)
        if self.seed < 0:
            message = f"seed={self.seed}: expected an integer of 0 or more."
            raise UsageError(message)

    def fibers(self, survey: Survey) -> int:
        """Fibres of one plate or field, or targets of one healpixel, of `survey`."""
        _check_survey(survey)
        found = {
            "sdss": self.fibers_legacy, "boss": self.fibers_boss, "desi": self.fibers_desi,
            "sdssv": self.fibers_sdssv,
        }  # fmt: skip
        return found[survey]

    def run2d(self, survey: Survey) -> str:
        """Name of the reduction: `26` for legacy, `v5_13_2` (DR17) for BOSS, `iron` for DESI.

        That of SDSS-V depends on the release, see `SDSSV_RUN2D`.
        """
        _check_survey(survey)
        sdssv = SDSSV_RUN2D[self.sdssv_release]
        return {"sdss": "26", "boss": "v5_13_2", "desi": "iron", "sdssv": sdssv}[survey]

    @property
    def n_sdssv(self) -> int:
        """Spectra of SDSS-V."""
        return round(self.sdssv_fraction * self.n_spectra)

    def class_shares(self) -> dict[str, float]:
        """Shares of the kinds of `kinds.SELECTED`, contaminants apart, of sum 1."""
        wanted = SHARES if self.class_fractions is None else self.class_fractions
        total = sum(wanted.values())
        return {kind: wanted.get(kind, 0.0) / total for kind in SELECTED}


def as_dict(settings: MockSettings) -> dict[str, Any]:
    """Settings as a release records them: those of SDSS-V only where it has any.

    A release without SDSS-V says what it said before there was any: it is the same release.
    """
    values = asdict(settings)
    if settings.sdssv_fraction:
        return values
    return {name: value for name, value in values.items() if "sdssv" not in name}


def _check_survey(survey: str) -> None:
    if survey not in SURVEYS:
        message = (
            f"{survey!r} is no survey of the mock. Known ones: {', '.join(SURVEYS)} (sdss is the "
            "legacy spectrograph)."
        )
        raise UsageError(message)


def survey_fractions(survey: str) -> dict[str, float]:
    """Settings of a release that has the spectra of one survey only.

    Raises
    ------
    UsageError
        If there is no such survey.

    Examples
    --------
    >>> survey_fractions("desi")
    {'boss_fraction': 0.0, 'desi_fraction': 1.0, 'sdssv_fraction': 0.0}
    """
    _check_survey(survey)
    return {f"{name}_fraction": float(survey == name) for name in SURVEYS if name != "sdss"}


def chosen_fractions(
    survey: str | None, boss: float | None, desi: float | None, sdssv: float | None = None
) -> dict[str, float]:
    """Shares of the surveys as they were asked for: by one survey, or by shares, not by both.

    Parameters
    ----------
    survey
        The only survey, or None.
    boss, desi, sdssv
        Shares; None for the usual ones.

    Raises
    ------
    UsageError
        If there is no such survey, or a share is given beside it.

    Examples
    --------
    >>> chosen_fractions(None, 0.5, None)
    {'boss_fraction': 0.5, 'desi_fraction': 0.0, 'sdssv_fraction': 0.0}
    """
    given = {"boss_fraction": boss, "desi_fraction": desi, "sdssv_fraction": sdssv}
    shares = {name: share for name, share in given.items() if share is not None}
    if survey is None:
        usual = MockSettings()
        return {name: shares.get(name, getattr(usual, name)) for name in given}
    found = survey_fractions(survey)
    if shares:
        words = " and ".join(f"{name}={share:g}" for name, share in shares.items())
        message = (
            f"found survey={survey}, which means all spectra are of it, and {words} beside it: "
            "expected one or the other. Leave either out."
        )
        raise UsageError(message)
    return found


def default_spec_files(n_spectra: int, desi_fraction: float, sdssv_fraction: float = 0.0) -> int:
    """Single spectrum files of a release whose number nobody names: 200, if there are so many.

    Examples
    --------
    >>> default_spec_files(5000, 0.0), default_spec_files(100, 0.5), default_spec_files(100, 0, 1)
    (200, 50, 0)
    """
    # What is no share is refused elsewhere, by name.
    shares = (share for share in (desi_fraction, sdssv_fraction) if 0 <= share <= 1)
    return max(min(200, n_spectra - sum(round(share * n_spectra) for share in shares)), 0)


def whole_numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Whole numbers with commas between them, as an option takes them.

    Raises
    ------
    UsageError
        Naming the option, if there is anything else.

    Examples
    --------
    >>> whole_numbers("--plates", "266, 267")
    (266, 267)
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    # Nine digits: isdigit() lets ² pass, and int() refuses thousands of digits.
    if not parts or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
        found = text if len(text) < 60 else f"{text[:57]}..."
        message = f"{option} {found!r}: expected whole numbers with commas, for instance 266,267."
        raise UsageError(message)
    return tuple(int(part) for part in parts)


def _check_classes(fractions: Mapping[str, float]) -> None:
    known = ", ".join(SELECTED)
    unknown = [kind for kind in fractions if kind not in SELECTED]
    if unknown:
        message = (
            f"class_fractions names {', '.join(unknown)}. Known kinds: {known}; stars "
            "and distant quasars have star_fraction and out_of_range_fraction."
        )
        raise UsageError(message)
    wrong = [f"{kind}={share:g}" for kind, share in fractions.items() if not 0 <= share <= 1]
    if wrong:
        message = f"class_fractions: {', '.join(wrong)}: expected shares between 0 and 1."
        raise UsageError(message)
    total = sum(fractions.values())
    if not abs(total - 1) <= 1e-6:
        message = (
            f"class_fractions sum to {total:g}: expected shares that sum to 1. "
            f"Known kinds: {known}."
        )
        raise UsageError(message)


def plan(settings: MockSettings) -> list[MockTask]:
    """List the tasks of a release: `spectra_scale.mock.plan.plan`."""
    # Kept here for those who have the settings in hand; that module imports this one.
    from spectra_scale.mock.plan import plan as make

    return make(settings)
