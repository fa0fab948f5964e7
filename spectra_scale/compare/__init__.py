"""Is a mock release believable: the mock beside real files at equal class, redshift and S/N.

Both sides are read from files by the same readers, cut alike, measured and labelled by the same
functions. Nothing here asks which side a spectrum is from, but the classifier whose task it is.
"""
