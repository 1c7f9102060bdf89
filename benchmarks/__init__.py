"""Speed and memory against the peers; `make bench` prints the table and writes RESULTS.md."""
