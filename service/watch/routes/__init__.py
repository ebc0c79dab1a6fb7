"""The calls of watch lists, cameras, alerts and webhooks."""
