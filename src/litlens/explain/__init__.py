"""Why a network said so: class activation maps, feature maps, their images, and how far to believe them.

Everything here takes a plain network and leaves it as it was, in the middle of training too.
"""
