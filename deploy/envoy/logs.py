"""What Envoy writes about requests."""

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.extensions.access_loggers.stream.v3.stream_pb2 import StdoutAccessLog
from google.protobuf.any_pb2 import Any as Packed

FIELDS = {
    "timestamp": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "request_id": "%RESP(X-REQUEST-ID)%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "gateway": "%UPSTREAM_HOST%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "milliseconds": "%DURATION%",
    "first_byte_milliseconds": "%RESPONSE_DURATION%",
}
"""Of a request. Neither its query nor any header of its own: that is where credentials are."""


def access_log() -> AccessLog:
    """A line of JSON for each request that failed on our side, and for one of a hundred others."""
    out = StdoutAccessLog()
    out.log_format.json_format.update(FIELDS)
    typed = Packed()
    typed.Pack(out)
    failed = {
        "status_code_filter": {
            "comparison": {
                "op": "GE",
                "value": {"default_value": 500, "runtime_key": "edge.logged_from"},
            }
        }
    }
    sampled = {
        "runtime_filter": {
            "runtime_key": "edge.logged",
            "percent_sampled": {"numerator": 1, "denominator": "HUNDRED"},
        }
    }
    log = AccessLog(name="envoy.access_loggers.stdout", typed_config=typed)
    log.filter.MergeFrom(type(log.filter)(or_filter={"filters": [failed, sampled]}))
    return log
