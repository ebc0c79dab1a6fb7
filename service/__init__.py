"""The service: crops → gallery → ranked answers. Never imports training."""
