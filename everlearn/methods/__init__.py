"""What fights forgetting: one file per family, one class per paper."""
