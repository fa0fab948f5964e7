"""The science: NumPy and Numba only, arrays in, arrays out."""
