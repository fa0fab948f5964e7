"""Unpacks the tiled images of a FITS file in a process of its own: see `fits_unpack`.

A script, not to be imported: the file comes by standard input, the indices of HDUs as arguments;
the pixels go to standard output, one array after the other.
"""

import io
import sys
import warnings

import numpy as np
from astropy.io import fits

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    stream = io.BytesIO(sys.stdin.buffer.read())
    with fits.open(stream, memmap=False, do_not_scale_image_data=True) as hdus:
        for index in sys.argv[1:]:
            np.save(sys.stdout.buffer, np.asarray(hdus[int(index)].data), allow_pickle=False)
