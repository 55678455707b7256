"""The page: what a test, a comparison or a folder of images came to, in one file that opens from disk.

Each page is a function of predictions and of images that are fetched by index; who fetches them, and where the page
is written, is left to `cli`.
"""
