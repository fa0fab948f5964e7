"""From the files of a spectroscopic survey release to a map of its spectra."""
