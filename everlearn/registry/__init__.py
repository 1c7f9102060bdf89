"""Versions with their evidence, and the ledger of what happened to them."""
