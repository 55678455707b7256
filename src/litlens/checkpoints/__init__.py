"""Writing checkpoints durably, reading them safely, rebuilding classifiers from them, and provenance.

A checkpoint is Lightning's own file plus the key `litlens`; it holds tensors and plain values only.
"""
