"""The errors of the service, and what each one tells the client.

    Problem                       a request that cannot be answered: status, title, detail
    ├── NotAnImage          400   the body cannot be read as a PNG, JPEG or WebP image
    ├── BadRequest          400   a parameter or a JSON body is malformed or out of range
    ├── Unauthorized        401   an operator's route without the operator's token
    ├── Forbidden           403   another visitor's prediction, or a cross-site request
    ├── NotFound            404   no such prediction
    ├── UnsupportedMedia    415   a media type or a format that the service does not read
    ├── BlankImage          422   an image without visible ink
    ├── TooManyPixels       422   an image that is too large to decode
    ├── InvalidLabel        422   a label that is neither a digit nor null
    ├── TooManyRequests     429   the client has exceeded the rate limit
    ├── Busy                503   the server is at its limit
    ├── NotReady            503   the service can store nothing, or its model does not answer
    ├── StorageUnavailable  503   the database cannot be reached or written to
    └── QueryRejected       503   the database answered, but refused the query
        └── QueryTimeout    503   or took too long; it may answer the same query later
    StartupError                  the service cannot start; the text tells the operator what to do

This module does not import Flask, because `train` uses `webapp.preprocess` without a server.
"""


class Problem(Exception):
    """A request that cannot be answered; the exception's text is the `detail` of RFC 9457."""

    status = 400
    title = "Bad request"
    headers: tuple[tuple[str, str], ...] = ()


class BadRequest(Problem):
    """A parameter or a JSON body is malformed or out of range."""


class NotAnImage(Problem):
    title = "Not an image"


class Unauthorized(Problem):
    status = 401
    title = "Unauthorized"
    headers = (("WWW-Authenticate", "Bearer"),)


class Forbidden(Problem):
    status = 403
    title = "Forbidden"


class NotFound(Problem):
    status = 404
    title = "Not found"

    def __init__(self) -> None:
        super().__init__("There is no such prediction.")


class UnsupportedMedia(Problem):
    status = 415
    title = "Unsupported media type"


class BlankImage(Problem):
    status = 422
    title = "Blank image"


class TooManyPixels(Problem):
    status = 422
    title = "Image too large"


class InvalidLabel(Problem):
    status = 422
    title = "Invalid label"


class TooManyRequests(Problem):
    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.headers = (("Retry-After", str(retry_after_s)),)


class Busy(Problem):
    status = 503
    title = "Busy"
    headers = (("Retry-After", "1"),)  # seconds

    def __init__(self, detail: str = "The server is busy. Try again in a second.") -> None:
        super().__init__(detail)


class NotReady(Problem):
    status = 503
    title = "Not ready"


class StorageUnavailable(Problem):
    status = 503
    title = "Storage unavailable"
    headers = (("Retry-After", "5"),)

    def __init__(
        self, detail: str = "The database is unavailable. Try again in a few seconds."
    ) -> None:
        super().__init__(detail)


class QueryRejected(Problem):
    status = 503
    title = "Query rejected"
    headers = (("Retry-After", "5"),)


class QueryTimeout(QueryRejected):
    """The database was busy or took too long; it may accept the same query later."""


class StartupError(Exception):
    """The service cannot start; the text tells the operator what to do."""
