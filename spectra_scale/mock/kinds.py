"""Kinds: what an object of the mock can truly be, in the order of their numbers."""

from __future__ import annotations

#: What an object truly is. The label of the line table is measured, and differs for some.
KINDS = (
    "star-forming", "composite", "seyfert", "liner", "broad-line", "retired", "passive",
    "bl-lac", "extreme-emission", "post-starburst", "star", "distant-quasar",
)  # fmt: skip
(
    STAR_FORMING, COMPOSITE, SEYFERT, LINER, BROAD, RETIRED, PASSIVE, BL_LAC, EXTREME,
    POST_STARBURST, STAR, QUASAR,
) = range(12)  # fmt: skip
#: Kinds that pass the selection. The others are contaminants with settings of their own.
SELECTED = KINDS[:10]
#: Their shares; tuned so that the *measured* labels come out at the paper's fractions
#: (science.md section 5).
SHARES = dict(
    zip(
        SELECTED,
        (0.3165, 0.162, 0.029, 0.022, 0.0305, 0.285, 0.142, 0.0015, 0.004, 0.0075),
        strict=True,
    )
)
