"""Every error a user of Pagemill can meet.

    PagemillError
    ├── InvalidRequest 400        a field is wrong: names the field, the value, the limit
    │   └── ContextTooLong 400    the prompt does not fit: both numbers
    ├── NotFound 404
    │   └── UnknownModel 404      lists what is there
    ├── Busy 429                  the queue is full; carries retry_after
    ├── Unavailable 503           loading, restarting, draining; carries retry_after
    ├── EngineFailure 500         the engine died or a step failed
    ├── Unsupported 501           says what is supported
    │   └── UnknownArchitecture 501   lists what is there
    ├── BadModelFile              a model file breaks its format; names the file and the place
    ├── DownloadError 502         a download failed for good; names the source
    └── ConfigError               a setting is unknown or unparsable; names the setting

Errors carry what a dialect needs to render them (status, code, param). They travel to one of the
boundary loops (HTTP handler, command line, engine loop); on the way they are caught only by who has
another way to go, such as the next source of a download, or can say better what happened.
"""


class PagemillError(Exception):
    """Base of all errors shown to users. `code` is stable and machine-readable."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(PagemillError):
    status = 400
    code = "invalid_value"


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class NotFound(PagemillError):
    status = 404
    code = "not_found"


class UnknownModel(NotFound):
    code = "model_not_found"


class Busy(PagemillError):
    """The bounded queue is full. `retry_after` is in whole seconds."""

    status = 429
    code = "queue_full"

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(PagemillError):
    """Not now: loading, restarting or shutting down. `retry_after` is in whole seconds."""

    status = 503
    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineFailure(PagemillError):
    status = 500
    code = "engine_error"


class Unsupported(PagemillError):
    status = 501
    code = "unsupported"


class UnknownArchitecture(Unsupported):
    pass


class BadModelFile(PagemillError):
    code = "bad_model_file"


class DownloadError(PagemillError):
    status = 502
    code = "download_failed"


class ConfigError(PagemillError):
    code = "bad_setting"
