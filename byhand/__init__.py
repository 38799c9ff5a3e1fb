"""byhand (动手): the classical networks of Dive into Deep Learning, by hand and proven."""

__version__ = "0.1.0"
