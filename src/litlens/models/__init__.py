"""Networks (plain `nn.Module`s that compute logits) and the LightningModules that train them.

This package imports no other; class names and image shapes are arguments.
"""
