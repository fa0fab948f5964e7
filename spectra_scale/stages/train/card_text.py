"""A model card in words: its limits, its page, and the line that `status` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
CARD, PAGE = "model_card.json", "MODEL_CARD.md"
#: Fewer training spectra of a class than this are called few.
FEW = 100
#: Fewer validation spectra than this give a mean χ² with an error of more than a few per cent.
FEW_HELD_OUT = 20
#: Of its χ²: by how much the linear baseline must be better to be said to be.
_BETTER = 0.99


def limits(card: Facts) -> list[str]:
    """What the facts of a card say about where its model should not be trusted.

    Parameters
    ----------
    card
        Without `limits`.
    """
    sample, scores = card["sample"], card["validation"]
    found = [*_of_classes(sample["classes"], card["training"]["classes"])]
    z, snr = sample["z"], sample["snr_median"]
    found.append(
        f"It has seen redshifts of {_number(z['least'])} to {_number(z['most'])} and a median S/N "
        f"a pixel of {_number(snr['least'])} to {_number(snr['most'])}: beyond, it extrapolates."
    )
    surveys = sorted({name for r in sample["releases"].values() for name in r["survey"] if name})
    if len(surveys) == 1:
        found.append(
            f"All its spectra are of one survey ({surveys[0]}). Those of another have other "
            "noise, calibration and masks, which a latent may show."
        )
    thin = [name for name, row in scores["by class"].items() if row["n"] < FEW_HELD_OUT]
    if thin:
        found.append(
            f"χ² of {_listed(thin, of=scores['by class'])} rests on fewer than {FEW_HELD_OUT} "
            "held-out spectra each."
        )
    worse = [
        name
        for name, row in scores["by class"].items()
        if row["linear_chi2_uncapped"] < _BETTER * row["chi2_uncapped"]
    ]
    if worse:
        found.append(
            "The linear baseline with as many components reconstructs "
            f"{_listed(worse, of=scores['by class'])} better: more spectra or epochs may change "
            "that."
        )
    found.append(
        "χ² is against the quoted errors, which surveys know to 10 or 20 %: 1 is not where it "
        "must end. A latent is a coordinate, no physical quantity."
    )
    return found


def _of_classes(classes: Mapping[str, Mapping[str, int]], chosen: Sequence[str]) -> Iterable[str]:
    none = [name for name, n in classes.items() if not n["train"]]
    few = [f"{name} ({n['train']:,})" for name, n in classes.items() if 0 < n["train"] < FEW]
    if chosen:
        yield f"It was trained on {_listed(chosen)} alone, by choice."
    if none:
        yield f"It has seen no {_listed(none, 'or')} spectrum."
    if few and len(few) + len(none) == len(classes):
        yield f"It has seen fewer than {FEW} spectra of every class: take it for an exercise."
    elif few:
        yield (
            f"It has seen fewer than {FEW} spectra of {_listed(few)}: expect them to be "
            "reconstructed with the features of commoner classes."
        )


def summary(card: Facts) -> str:
    """One line for `status`.

    Parameters
    ----------
    card
        As `write_card` wrote it.
    """
    every, classes = card["validation"]["all"], card["validation"]["by class"]
    worst = max(classes, key=lambda name: float(classes[name]["chi2_uncapped"]))
    return (
        f"χ² {_number(every['chi2_uncapped'])} (eq. 1), "
        f"{_number(every['chi2_valid_uncapped'])} (eq. 2) of {every['n']:,} held-out spectra; "
        f"linear baseline {_number(every['linear_chi2_uncapped'])} (eq. 1); highest: {worst} "
        f"{_number(classes[worst]['chi2_uncapped'])} of {classes[worst]['n']:,}"
    )


def page(card: Facts) -> str:
    """The card in Markdown.

    Parameters
    ----------
    card
        All of it.
    """
    parts = [
        f"# Model card: auto-encoder {'–'.join(map(str, card['model']['layers']))}",
        _opening(card),
        "## What it is for",
        _use(card),
        "## What it is not for",
        "\n".join(f"- {line}" for line in card["limits"]),
        "## How well it does",
        _results(card["validation"]),
        "## What it was trained on",
        _data(card["sample"]),
        "## How it was trained",
        _how(card),
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in card["versions"].items()) + ".",
        f"Fingerprints: model `{card['fingerprint']}`, sample "
        f"`{card['sample']['fingerprint']}`. All these numbers and more are in `model_card.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _opening(card: Facts) -> str:
    model, counts = card["model"], card["sample"]["counts"]
    every = card["validation"]["all"]
    return (
        f"{model['latents']} latents a spectrum, {model['parameters']:,} parameters; trained on "
        f"{counts['train']:,} spectra and judged on {counts['validation']:,} others: χ² "
        f"{_number(every['chi2_uncapped'])} by equation 1 of Pat et al. 2022, "
        f"{_number(every['chi2_valid_uncapped'])} by equation 2."
    )


def _use(card: Facts) -> str:
    sample = card["sample"]
    grid = sample["grid"]
    return (
        "Latents, reconstructions and χ² of galaxy and quasar spectra that were prepared as its "
        f"own were: preset `{sample['preset']}`, mask `{sample['mask']}`, {grid['n_pixels']:,} "
        f"pixels from {grid['first edge']:g} to {grid['last edge']:g} Å (rest frame, vacuum), "
        f"{'' if sample['deredden'] else 'not '}corrected for Milky Way dust. "
        "`spectra-scale apply RUN FILE` prepares them so and encodes them; so does "
        "`[models] from` in a job."
    )


def _results(scores: Facts) -> str:
    head = ("", "held out", "χ² (eq. 1)", "χ² (eq. 2)", "linear (eq. 1)", "linear (eq. 2)",
            "capped (eq. 1)", "capped (eq. 2)")  # fmt: skip
    keys = ("chi2_uncapped", "chi2_valid_uncapped", "linear_chi2_uncapped",
            "linear_chi2_valid_uncapped", "chi2", "chi2_valid")  # fmt: skip
    tables = [
        _table(
            (title, *head[1:]),
            [(name, f"{row['n']:,}", *(_number(row[key]) for key in keys))
             for name, row in groups.items()],
        )
        for title, groups in (
            ("class", scores["by class"] | {"**all**": scores["all"]}),
            ("median S/N a pixel", scores["by snr_median"]),
        )
    ]  # fmt: skip
    return (
        "Means over held-out spectra, in float32. Equation 1 divides by all pixels, equation 2 by "
        "the valid ones. *Linear* is a weighted PCA with as many components. *Capped* is with the "
        "weights of the loss (`snr_cap`, `variance_scale`); the other columns are with the quoted "
        "errors.\n\n" + "\n\n".join(tables)
    )


def _data(sample: Facts) -> str:
    releases = _table(
        ("release", "survey", "reductions", "training", "validation"),
        [(name, ", ".join(r["survey"]), ", ".join(r["reductions"]), f"{r['train']:,}",
          f"{r['validation']:,}") for name, r in sample["releases"].items()],
        words=3,
    )  # fmt: skip
    classes = _table(
        ("class", "training", "validation"),
        [(name, f"{n['train']:,}", f"{n['validation']:,}")
         for name, n in sample["classes"].items()],
    )  # fmt: skip
    spreads = {"redshift": "z", "median S/N a pixel": "snr_median", "S/N in all": "snr_total",
               "masked fraction": "masked_fraction"}  # fmt: skip
    names = ("least", "5 %", "25 %", "50 %", "75 %", "95 %", "most")
    ranges = _table(
        ("of the training spectra", *names),
        [(title, *(_number(sample[key][n]) if n in sample[key] else "" for n in names))
         for title, key in spreads.items()],
    )  # fmt: skip
    counts = sample["counts"]
    why = ", ".join(f"{n:,} {name}" for name, n in counts.items()
                    if name not in ("train", "validation", "unusable"))  # fmt: skip
    unusable = f"{counts['unusable']:,} spectra of the sample could not be used"
    changed = _settings(sample["settings that are not the defaults"])
    return "\n\n".join([
        releases, classes, ranges, f"{unusable}{f' ({why})' if why else ''}.",
        f"Settings of `[prepare]` that are not the defaults: {changed}.",
    ])  # fmt: skip


def _how(card: Facts) -> str:
    training, model = card["training"], card["model"]
    how = training["settings"]
    cap = "none" if how["snr_cap"] is None else f"{how['snr_cap']:g}"
    stopped = ""
    if training["weights of epoch"] != training["epochs"]:
        stopped = f" The weights are those of epoch {training['weights of epoch']}."
    lines = [
        f"{training['epochs']:,} epochs in batches of {how['batch_size']:,}; Adam, learning rate "
        f"{how['learning_rate']:g}, schedule {how['schedule']}; seed {how['seed']}.{stopped}",
        f"Loss `{how['loss']}`, cap on S/N {cap}, factor on the variance "
        f"{how['variance_scale']:g}; precision {how['precision']}; "
        f"classes {'balanced' if training['balance'] else 'not balanced'}.",
        f"Flux normalised by `{model['normalisation']['kind']}`, missing pixels fed as "
        f"{model['missing pixels']}; first weights {training['initial']}.",
        "Settings of `[train]` that are not the defaults: "
        f"{_settings(training['settings that are not the defaults'])}.",
    ]
    if training["outliers"]:
        share, wider = (training["outliers"][f"outlier_{k}"] for k in ("fraction", "widening"))
        lines.append(
            f"Outliers that the loss has learnt: a share of {_number(share['50 %'])} in the "
            f"median pixel of the grid, at most {_number(share['most'])}, with a σ "
            f"{_number(wider['50 %'])} times the quoted one; by pixel in `loss.safetensors`."
        )
    return "\n".join(f"- {line}" for line in lines)


def _settings(settings: Facts) -> str:
    return ", ".join(f"`{k} = {v}`" for k, v in settings.items()) or "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table: the columns of words to the left, then numbers, to the right."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    lines = [list(head), rule, *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _listed(names: Sequence[str], last: str = "and", of: Facts | None = None) -> str:
    """Names in words; all there are of several are not named one by one."""
    if of is not None and len(names) == len(of) > 1:
        return "every class"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _number(value: float) -> str:
    """Four digits: what a mean of some thousand spectra has."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
