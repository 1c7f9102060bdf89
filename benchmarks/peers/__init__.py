"""What we are compared with; one file for each."""
