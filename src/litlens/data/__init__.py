"""From files and arrays to batches: data modules, the order of samples, preprocessing and augmentation.

This room knows no model; a data module serves under a Trainer or in a plain `for` loop.
"""
