"""The networks that are trained from scratch, from images to logits, each readable from its constructor.

They know nothing of losses, metrics or configs.
"""
