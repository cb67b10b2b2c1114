"""Networks that transformers computes."""
