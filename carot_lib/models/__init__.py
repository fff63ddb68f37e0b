"""CLIP, the classifiers made from it, and their predictions."""
