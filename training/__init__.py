"""The offline trainer: data sets → checkpoint → report."""
