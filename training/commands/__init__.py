"""The `gmn` sub-commands of the training room, one file each."""
