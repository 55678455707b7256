"""Reading checkpoints safely and rebuilding what they hold, and where a run came from.

A checkpoint is Lightning's own file plus the key `litlens`; it holds tensors and plain values only.
"""
