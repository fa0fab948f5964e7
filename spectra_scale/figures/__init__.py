"""One function a figure: arrays in, matplotlib figure out."""
