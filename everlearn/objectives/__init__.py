"""How examples become batches, and a batch a scalar."""
