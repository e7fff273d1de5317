"""One folder per kind of data; they never import each other."""
