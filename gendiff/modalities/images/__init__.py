"""Images on a grid of pixels."""
