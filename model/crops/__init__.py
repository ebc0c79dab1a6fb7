"""Image files of crops, their quality and their manifests."""
