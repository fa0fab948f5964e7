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
        (0.318, 0.137, 0.016, 0.009, 0.0330, 0.268, 0.209, 0.0015, 0.0040, 0.0045),
        strict=True,
    )
)
