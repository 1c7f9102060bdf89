"""Whether facts that were taught are known, in the form they were taught in and in others."""
