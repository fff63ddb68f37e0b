"""The pre-trained model, and the one loop that fine-tunes it."""
