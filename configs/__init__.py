"""One short file of differences from `default` per network and dataset."""
