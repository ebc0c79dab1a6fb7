"""Every call of the API as data: how a request is built and which model reads its answer.

Both clients send what is built here, so that neither knows a path or a field of its own.
"""

from service.client.calls.call import Call, Upload
from service.client.calls.images import Image, ImageSource
from service.client.calls.query_calls import QueryOptions, Scoring

__all__ = ["Call", "Image", "ImageSource", "QueryOptions", "Scoring", "Upload"]
