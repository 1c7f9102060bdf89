"""Rewards: how the completions of a prompt are scored for learning; one file per family."""
