"""Routes with a form that answer a `Response`: images to search for, to enroll or to embed.

FastAPI resolves the arguments of a route anew for each request. For these routes, which are called
most, that took a fifth of the event loop's time, so their arguments are resolved here: the request,
the call, the form, and parameters of the path and headers. The OpenAPI document is FastAPI's.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any, TypeVar, cast

from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import ServiceError
from service.http.forms import Form
from service.http.limits import FormRequest, Handler

FormType = TypeVar("FormType", bound=Form)


def answers_response(route: APIRoute) -> bool:
    """Return whether the function of a route is annotated to return a `Response`."""
    return inspect.signature(route.endpoint, eval_str=True).return_annotation is Response


def form_handler(route: APIRoute, form: type[Form]) -> Handler:
    """Return the handler of a route with a form that answers a `Response`.

    Its only dependency is its call, which the guard has let in.
    """
    dependant = route.dependant
    request_name = dependant.request_param_name
    (form_name,) = (parameter.name for parameter in dependant.body_params)
    (call_name,) = (dependency.name for dependency in dependant.dependencies)
    if call_name is None:
        raise TypeError(f"{route.path}: its function does not take the call")

    async def answer(request: Request) -> Response:
        sent = await _receive_form(request)
        try:
            arguments: dict[str, Any] = {
                call_name: request.state.call,
                form_name: await cast("FormRequest", request).parse(parse_form, form, sent),
            }
            if request_name is not None:
                arguments[request_name] = request
            for parameters, received in (
                (dependant.path_params, request.path_params),
                (dependant.header_params, request.headers),
            ):
                values, errors = request_params_to_args(parameters, received)
                if errors:
                    raise RequestValidationError(errors)
                arguments |= values
            response: Response = await route.endpoint(**arguments)
            return response
        finally:
            await sent.close()

    return answer


async def _receive_form(request: Request) -> FormData:
    try:
        return await request.form()
    except (HTTPException, ServiceError):
        raise
    except Exception as error:
        # Parsers read hostile bodies: any other error is a malformed body, as FastAPI says too.
        raise HTTPException(400, "There was an error parsing the body") from error


def parse_form(form: type[FormType], sent: FormData) -> FormType:
    """Parse a form as FastAPI does: empty text and empty file pickers count as omitted.

    Raises:
        RequestValidationError: a field is missing, unknown or invalid.
    """
    # `getlist` would look through the whole form for each name.
    sent_by_name = defaultdict(list)
    for name, item in sent.multi_items():
        sent_by_name[name].append(item)
    values: dict[str, Any] = {}
    for name, items in sent_by_name.items():
        if name not in form.model_fields:
            # An unknown field is an error, which names it.
            values[name] = items if len(items) > 1 else items[0]
        elif name not in form.single_fields():
            if items := [item for item in items if not _is_empty_file(item)]:
                values[name] = items
        elif items[-1] != "" and not _is_empty_file(items[-1]):
            values[name] = items[-1]
    try:
        return form.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        raise RequestValidationError(
            [{**entry, "loc": ("body", *entry["loc"])} for entry in errors]
        ) from None


def _is_empty_file(value: str | UploadFile) -> bool:
    # Browsers send an empty name without content if no file is selected.
    return isinstance(value, UploadFile) and value.filename == "" and value.size == 0
