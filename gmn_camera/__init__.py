"""The camera program: finds people in video and sends their crops to the service."""
