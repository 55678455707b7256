"""From files and arrays to batches: data modules, the order of samples, preprocessing and augmentation.

This package knows no model; a data module works under a Trainer or in a plain `for` loop.
"""
