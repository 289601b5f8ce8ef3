"""capture: train an image classifier from a folder and write down, for every batch and every image, what happened."""

__version__ = "0.1.0"
