"""The command: from a config and the shell to a trained, tested and measured classifier.

The only room that knows all others; everything it does can be done in a few lines of Python with their classes.
"""
