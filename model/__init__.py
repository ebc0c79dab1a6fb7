"""What a crop and a checkpoint are: decoding, embedding, pair scoring, the artefact."""
