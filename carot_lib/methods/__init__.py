"""One file per fine-tuning method, and what the methods are made of."""
