"""What a logger shows while a classifier trains: scores, samples, mistakes, maps.

A figure is drawn only where a logger shows it, on rank zero, and leaves the training as it was.
"""
