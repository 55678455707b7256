"""The page: what a test, a comparison or a folder of pictures came to, in one file that opens from disk.

Each page is a function of predictions and of pictures that are fetched by index; who fetches them, and where the page
is written, is left to `cli`.
"""
