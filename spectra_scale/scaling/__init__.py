"""Weak and strong scaling of stages on local Ray: `spectra-scale scaling`.

`plan` says what is measured, `inputs` makes what is read, `measure` runs one stage in a process of
its own with `meter`'s clocks, `table` turns measurements into efficiencies, and `command` does all
of it. How to read the result is in docs/scaling.md.
"""
