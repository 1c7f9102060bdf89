"""Documents for pre-training that a chat model is asked to write, with where each came from."""
