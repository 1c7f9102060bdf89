"""Grids: methods times seeds on one stream, run here, in processes or on a cluster, and set side by side."""
