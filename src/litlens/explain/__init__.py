"""Explanations of a network's predictions: class activation maps, feature maps, and their overlays.

Everything here takes a plain network and leaves it unchanged, also in the middle of training.
"""
