"""One module per data set, the synthetic people, and the registry that names them."""
