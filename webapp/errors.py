"""What can go wrong, as the caller is told of it.

    Problem                     a request that cannot be answered: status, title, detail
    ├── NotAnImage        400   the body is no picture that we read, or a broken one
    ├── BadRequest        400   a parameter or a JSON body is malformed or out of range
    ├── NotOperator       401   a call that is the operator's
    ├── NotYours          403   somebody else's prediction
    ├── NotFound          404   no such prediction
    ├── UnsupportedMedia  415   a media type that we do not read
    ├── NoInk             422   a picture with nothing drawn on it
    ├── TooManyPixels     422   a picture that is too large to decode
    ├── NoSuchDigit       422   a label that is no digit
    ├── Busy              503   more is asked than can be answered
    ├── NotReady          503   the model does not answer
    └── StorageAway       503   the database does not answer
        └── Refused       503   it answers, but does not do this
    StartError                  the service cannot start; the operator is told what to do

Free of Flask, because `train` prepares drawings with this package and does without a server.
"""


class Problem(Exception):
    """A request that cannot be answered; its text is the `detail` of RFC 9457."""

    status = 400
    title = "Bad request"
    headers: tuple[tuple[str, str], ...] = ()  # of the answer, beside the usual ones


class BadRequest(Problem):
    """A parameter or a JSON body is malformed or out of range."""


class NotAnImage(Problem):
    """The body is no picture that we read, or a broken one."""

    title = "Not an image"


class NotOperator(Problem):
    """The call is the operator's alone."""

    status = 401
    title = "Not the operator"
    headers = (("WWW-Authenticate", "Bearer"),)


class NotYours(Problem):
    """Only who made a prediction, or the operator, may label it."""

    status = 403
    title = "Not your prediction"


class NotFound(Problem):
    """There is no such prediction."""

    status = 404
    title = "Not found"


class UnsupportedMedia(Problem):
    """The body is of a media type that we do not read."""

    status = 415
    title = "Unsupported media type"


class NoInk(Problem):
    """The picture shows nothing but its ground."""

    status = 422
    title = "Nothing drawn"


class TooManyPixels(Problem):
    """The picture is too large to decode."""

    status = 422
    title = "Picture too large"


class NoSuchDigit(Problem):
    """The label is neither a digit nor null."""

    status = 422
    title = "No such digit"


class Busy(Problem):
    """More is asked than can be answered."""

    status = 503
    title = "Busy"
    headers = (("Retry-After", "1"),)  # seconds


class NotReady(Problem):
    """The model does not answer."""

    status = 503
    title = "Not ready"


class StorageAway(Problem):
    """The database does not answer."""

    status = 503
    title = "Storage is away"
    headers = (("Retry-After", "5"),)


class Refused(StorageAway):
    """The database answers, but does not do this: it breaks a rule, or takes too long."""

    title = "Not done"


class StartError(Exception):
    """The service cannot start; the text tells the operator what to do."""
