"""Sketches and other continuous sequences."""
