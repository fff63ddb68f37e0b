"""One file a method, and what the methods are made of."""
