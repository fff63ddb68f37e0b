"""CLIP, its classifiers, the EMA teacher, and logits from images."""
