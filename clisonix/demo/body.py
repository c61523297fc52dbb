"""What a page sends here: one small JSON object."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from clisonix.errors import ClisonixError

MOST_BYTES = 4096


async def small_json(request: Request) -> dict[str, Any]:
    """The object in the body.

    Raises:
        ClisonixError: the body is not a JSON object.
        HTTPException: 413, the body is longer than such an object needs; 415, it does not claim to be JSON, which a
            form of another page could not.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415)
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ClisonixError("the request is not JSON: send an object") from error
    if not isinstance(content, dict):
        raise ClisonixError(f"the request is JSON but no object: {type(content).__name__}")
    return content
