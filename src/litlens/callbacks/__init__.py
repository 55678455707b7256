"""What happens while a classifier trains: one concern each, independent of the others and of their order.

A callback decides when; `evaluation` and `explain` draw, and the trainer's loggers decide where it is shown.
"""
