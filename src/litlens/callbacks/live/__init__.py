"""What loggers show during training: scores, samples, mistakes, maps.

A figure is drawn only if a logger shows images, on rank zero, and does not change the training.
"""
