"""Readers of survey files: release files in, observed spectra and catalogue rows out."""
