"""The sub-commands of `gmn` that train, evaluate and read data sets."""
