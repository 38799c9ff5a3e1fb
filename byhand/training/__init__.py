"""The one training loop, and what it needs; importing this package alone does not import torch."""
