"""What a logger shows while it trains: curves, matrices, samples, mistakes, maps.

A figure is drawn only where somebody can look at it, on rank zero, and leaves the training as it was.
"""
