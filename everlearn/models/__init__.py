"""Language models: loading, reading, sampling and training them."""
