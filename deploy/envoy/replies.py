"""What Envoy answers by itself, in the words that clients know from the gateway."""

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as http,
)

CODES = (
    (500, "internal_error", "The platform does not answer at the moment."),
    (400, "invalid_request", "The request cannot be read."),
)
"""From which status on: code and message, in the words of the canonical dialect."""


def local_replies() -> http.LocalReplyConfig:
    """Who is refused here gets the envelope that the gateway would have given."""
    return http.LocalReplyConfig(
        mappers=[
            http.ResponseMapper(filter=_from(status), body_format_override=_envelope(code, message))
            for status, code, message in CODES
        ]
    )


def _from(status: int) -> AccessLogFilter:
    value = {"default_value": status, "runtime_key": f"edge.from_{status}"}
    return AccessLogFilter(status_code_filter={"comparison": {"op": "GE", "value": value}})


def _envelope(code: str, message: str) -> SubstitutionFormatString:
    form = SubstitutionFormatString()
    form.json_format.update({"error": {"code": code, "message": message}})
    return form
