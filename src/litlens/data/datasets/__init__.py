"""The data sets: arrays, letters in fonts, and images in folders, from where they come to a module's splits.

A new one is a subclass of `ImageDataModule` with one method that lists its samples, or none: a folder needs no code.
"""
