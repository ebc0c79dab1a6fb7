"""From image bytes to vectors: admission, decoding, micro-batches, the networks."""
