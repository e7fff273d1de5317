"""Molecules: elements and positions in space, bonds read off the result."""
