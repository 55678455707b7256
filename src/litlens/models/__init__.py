"""Networks (plain `nn.Module`s that give logits) and the LightningModules that train them.

This room imports no other; class names and image shapes come to it as arguments.
"""
