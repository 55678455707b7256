"""From predictions to figures of merit, images and the page, each a function of `Predictions` alone.

Nothing here knows a trainer, a data module or a network; deciding when to draw and where to is left to
`callbacks`.
"""
