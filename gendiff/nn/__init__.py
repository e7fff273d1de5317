"""Plain networks: they know tensors, masks and conditioning vectors, and nothing of diffusion."""
