"""The networks that are trained from scratch, from images to logits; they know no losses, metrics or configs."""
