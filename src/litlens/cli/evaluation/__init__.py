"""What `evaluate.py` does: score checkpoints, set runs side by side, try them on spoilt images, name new ones."""
