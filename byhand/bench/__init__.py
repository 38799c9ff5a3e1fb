"""Measuring byhand on this machine, beside every other way to train the same networks: ``byhand bench``."""
