"""Spectra of known truth, written as survey files."""
