"""Which documents of many are worth learning from."""
