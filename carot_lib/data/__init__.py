"""Prepared sets: how every stage reads images and captions."""
