"""Sources, streams and what becomes of their rows."""
