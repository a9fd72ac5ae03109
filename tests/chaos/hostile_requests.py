"""Requests that two readers may understand differently: made by chance, each with what it must do.

A request is honest at first. Some twists do not change what it asks for; others have it ask for
nothing that there is, or make it none at all. So what it must come to is known without a parser.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

CANARY = "canary"
"""The id in a request that hides where only a parser that is wrong finds it."""


@dataclass
class Request:
    """A request as it goes over the wire, still in parts."""

    method: str
    path: str
    operation: str
    credential: bytes
    body: bytes
    canary: bytes
    target: bytes = b""
    host: Sequence[bytes] = (b"host: x",)
    headers: list[bytes] = field(default_factory=list)
    framing: bytes = b""
    """Headers that say how long the body is, and the end of the head."""
    payload: bytes = b""
    version: bytes = b"HTTP/1.1"
    before: bytes = b""
    expected: bool = True
    """It is dispatched, if whoever asks may."""
    twists: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.target = self.path.encode()
        self.framing = b"content-length: %d\r\n\r\n" % len(self.body)
        self.payload = self.body

    def wire(self) -> bytes:
        line = b"%s %s %s" % (self.method.encode(), self.target, self.version)
        lines = [line, *self.host, *self.headers]
        if self.credential:
            lines.append(b"authorization: Bearer " + self.credential)
        return self.before + b"\r\n".join([*lines, self.framing]) + self.payload


Twist = Callable[[Request], None]


def _filled(form: bytes, **parts: bytes) -> bytes:
    for name, value in parts.items():
        form = form.replace(b"{%s}" % name.encode(), value)
    return form


def _target(form: bytes) -> Twist:
    """Its `{path}`, the `{first}` segment and the `{rest}`; and these as far as after a slash."""

    def twist(request: Request) -> None:
        path = request.path.encode()
        request.target = _filled(
            form,
            path=path,
            bare_path=path[1:],
            first=path[:3],
            rest=path[3:],
            bare_rest=path[4:],
            all_but_last=path[:-1],
            last=b"%x" % path[-1],
        )

    return twist


def _method(method: str) -> Twist:
    def twist(request: Request) -> None:
        request.method = method

    return twist


def _host(*lines: bytes) -> Twist:
    def twist(request: Request) -> None:
        request.host = lines

    return twist


def _header(line: bytes) -> Twist:
    def twist(request: Request) -> None:
        request.headers.append(_filled(line, canary=request.canary.replace(b"\r\n", b" ")))

    return twist


def _version(version: bytes) -> Twist:
    def twist(request: Request) -> None:
        request.version = version

    return twist


def _before(piece: bytes) -> Twist:
    def twist(request: Request) -> None:
        request.before = piece

    return twist


def _framed(framing: bytes, payload: bytes = b"{body}") -> Twist:
    """With the length as `{n}`, `{x}` or `{X}`, with the canary's as `{m}`; the `{body}`."""

    def twist(request: Request) -> None:
        size, canary = len(request.body), request.canary
        parts = {
            "n": b"%d" % size,
            "m": b"%d" % (len(b"0\r\n\r\n") + len(canary)),
            "x": b"%x" % size,
            "X": b"%X" % size,
            "large": b"1%016x" % size,
            "chunked": b"%x\r\n%s\r\n0\r\n\r\n" % (size, request.body),
            "body": request.body,
            "canary": canary,
        }
        request.framing = _filled(framing, **parts) + b"\r\n\r\n"
        request.payload = _filled(payload, **parts)

    return twist


def _head(request: Request) -> None:
    if request.method == "GET":
        request.method = "HEAD"


_TE = b"transfer-encoding: chunked"

SAME: Mapping[str, Mapping[str, Twist]] = {
    "target": {
        "absolute form": _target(b"http://evil.example{path}"),
        "absolute form with a user": _target(b"http://a:b@evil.example:80{path}"),
        "an encoded letter": _target(b"{all_but_last}%{last}"),
        "a query": _target(b"{path}?_method=DELETE&x=%00%0d%0a/../"),
        "a query with an address": _target(b"{path}?http://x/v1/operator/workers"),
        "another mount": _target(b"/vlinders{path}"),
        "two spaces": _target(b" {path} "),
    },
    "method": {"of a head": _head},
    "host": {
        "a port": _host(b"host: x:80"),
        "IPv6": _host(b"host: [::1]:8080"),
        "upper case": _host(b"HOST:X.EXAMPLE"),
        "nothing": _host(b"host:"),
        "tabs": _host(b"host:\t\tx"),
    },
    "header": {
        "another method": _header(b"x-http-method-override: DELETE"),
        "yet another method": _header(b"x-method-override: PATCH"),
        "another address": _header(b"x-original-url: /v1/operator/workers"),
        "a rewritten address": _header(b"x-rewrite-url: /v1/operator/workers"),
        "another host": _header(b"x-forwarded-host: evil.example"),
        "another user": _header(b"x-forwarded-user: admin"),
        "a caller of ours": _header(b"vlinders-caller: a2luZDogS0lORF9TRVJWSUNF"),
        "a credential that is taken away": _header(b"connection: authorization, host"),
        "an offer": _header(b"connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk"),
        "another offer": _header(b"Connection: Upgrade\r\nUpgrade: websocket"),
        "the end": _header(b"connection: close"),
        "a canary": _header(b"x: {canary}"),
        "odd names": _header(b"!#$%&'*+-.^_`|~1: x"),
        "tabs": _header(b"x:\t\tx\t"),
    },
    "framing": {
        "chunks": _framed(_TE, b"{chunked}"),
        "chunks by another name": _framed(b"Transfer-Encoding:Chunked", b"{chunked}"),
        "chunks with extensions": _framed(_TE, b'{x};a=b;c="d"\r\n{body}\r\n0;e\r\n\r\n'),
        "chunks of upper case and zeros": _framed(_TE, b"000{X}\r\n{body}\r\n000\r\n\r\n"),
        "a credential at the end": _framed(
            _TE, b"{x}\r\n{body}\r\n0\r\nauthorization: Bearer x\r\nhost: y\r\n\r\n"
        ),
        "zeros": _framed(b"content-length: 000{n}"),
        "spaces": _framed(b"content-length:  {n} "),
        "expectations": _framed(b"expect: 100-continue\r\ncontent-length: {n}"),
    },
    "beginning": {"empty lines": _before(b"\r\n\r\n"), "half of one": _before(b"\r")},
}
"""Twists that change nothing, by the part that they twist."""

NOTHING: Mapping[str, Mapping[str, Twist]] = {
    "target": {
        name: _target(form)
        for name, form in {
            "two slashes": b"{first}/{rest}",
            "two slashes before": b"/{path}",
            "a slash at the end": b"{path}/",
            "a dot": b"/.{path}",
            "a dot amid": b"{first}/.{rest}",
            "two dots": b"/v1/models/..{rest}",
            "encoded dots": b"/v1/models/%2e%2e{rest}",
            "half encoded dots": b"/v1/models/.%2E{rest}",
            "an encoded slash": b"{first}%2f{bare_rest}",
            "a slash encoded twice": b"{first}%252f{bare_rest}",
            "an overlong slash": b"{first}%c0%af{bare_rest}",
            "a wide slash": b"{first}%ef%bc%8f{bare_rest}",
            "a letter encoded twice": b"{all_but_last}%2561",
            "a backslash": b"{first}\\{bare_rest}",
            "upper case": b"/V1{rest}",
            "a parameter": b"{path};x=y",
            "a null character": b"{path}%00",
            "a null character and more": b"{path}%00.json",
            "a space": b"{path}%20",
            "a line's end": b"{path}%0d%0a",
            "an encoded query": b"{path}%3fx",
            "an encoded fragment": b"{path}%23",
            "a dot after": b"{path}.",
            "a user instead": b"/@x{path}",
            "everything": b"*",
            "a fragment": b"{path}#",
            "a fragment amid": b"/docs#{path}",
            "a real space amid": b"{path} x",
            "no text": b"{path}\xff",
            "a real null": b"{path}\0",
            "a real tab": b"{path}\t",
            "an authority": b"x:80",
            "no address": b"http://x",
            "half an address": b"http:{path}",
            "no slash": b"{bare_path}",
        }.items()
    },
    "method": {
        method: _method(method)
        for method in ("PUT", "OPTIONS", "TRACE", "PROPFIND", "CONNECT", "get", "GE T", "G\0T", "")
    },
    "host": {
        "none": _host(),
        "two": _host(b"host: x", b"host: x"),
        "two others": _host(b"host: x", b"Host: y"),
        "two with a space": _host(b"host: x", b"host : y"),
        "folded": _host(b"host: x\r\n y"),
        **{
            name: _host(b"host: " + value)
            for name, value in {
                "a path": b"x/v1",
                "a user": b"a@x",
                "a space": b"x y",
                "a space after it": b"x ",
                "a list": b"x, y",
                "a word for a port": b"x:http",
                "two ports": b"x:80:80",
                "a fragment": b"x#",
                "a query": b"x?",
                "a backslash": b"x\\y",
                "a null": b"x\0",
                "no ASCII": b"\xc3\xbc",
                "a quote": b'"x"',
                "half an address": b"[::1",
                "a name before an address": b"x[::1]",
                "encoded": b"x%2fy",
                "brackets": b"[x]",
            }.items()
        },
    },
    "header": {
        "a folded line": _header(b"x: y\r\n {canary}"),
        "a folded line of a tab": _header(b"x: y\r\n\tz"),
        "a line's end": _header(b"x: y\nz: w"),
        "half a line's end": _header(b"x: y\rz: w"),
        "a null": _header(b"x: \0"),
        "a space before the colon": _header(b"x : y"),
        "a space before the name": _header(b" x: y"),
        "no name": _header(b": y"),
        "no colon": _header(b"x"),
        "a name in brackets": _header(b"(x): y"),
        "a name that is no ASCII": _header(b"\xc3\xbc: y"),
        "two credentials more": _header(b"authorization: Bearer a\r\nAuthorization: Bearer b"),
        "a hundred more": _header(b"\r\n".join([b"x: y"] * 100)),
    },
    "framing": {
        name: _framed(framing, payload)
        for name, (framing, payload) in {
            "length and chunks": (b"content-length: {n}\r\n" + _TE, b"{chunked}"),
            "chunks and length": (_TE + b"\r\ncontent-length: {n}", b"{chunked}"),
            "a short length and chunks": (b"content-length: 4\r\n" + _TE, b"{chunked}{canary}"),
            "chunks that end, and length": (
                _TE + b"\r\ncontent-length: {m}",
                b"0\r\n\r\n{canary}",
            ),
            "two lengths": (b"content-length: {n}\r\ncontent-length: 0", b"{canary}"),
            "two lengths, none first": (b"content-length: 0\r\ncontent-length: {n}", b"{canary}"),
            "a length twice": (b"content-length: {n}\r\ncontent-length: {n}", b"{body}"),
            "a list of lengths": (b"content-length: {n}, {n}", b"{body}"),
            "a sign": (b"content-length: +{n}", b"{body}"),
            "a minus": (b"content-length: -{n}", b"{canary}"),
            "hexadecimal": (b"content-length: 0x{x}", b"{body}{canary}"),
            "a fraction": (b"content-length: {n}.0", b"{body}"),
            "no length": (b"content-length:", b"{canary}"),
            "two numbers": (b"content-length: {n} 0", b"{body}{canary}"),
            "an endless length": (b"content-length: 18446744073709551616", b"{canary}"),
            "a folded length": (b"content-length:\r\n {n}", b"{body}{canary}"),
            "a length with a space": (b"content-length : {n}\r\n" + _TE, b"{chunked}"),
            "chunks twice": (b"transfer-encoding: chunked, chunked", b"{chunked}"),
            "chunks in two headers": (_TE + b"\r\n" + _TE, b"{chunked}"),
            "identity": (b"transfer-encoding: identity", b"{canary}"),
            "identity after": (b"transfer-encoding: chunked, identity", b"{chunked}{canary}"),
            "identity before": (b"transfer-encoding: identity, chunked", b"{chunked}"),
            "gzip": (b"transfer-encoding: gzip, chunked", b"{chunked}"),
            "nearly chunks": (b"transfer-encoding: xchunked", b"{chunked}{canary}"),
            "chunks with a parameter": (b"transfer-encoding: chunked;q=1", b"{chunked}"),
            "chunks in quotes": (b'transfer-encoding: "chunked"', b"{chunked}"),
            "chunks after a tab": (b"transfer-encoding: \x0bchunked", b"{chunked}{canary}"),
            "chunks in a folded line": (b"transfer-encoding:\r\n chunked", b"{chunked}{canary}"),
            "chunks with a space": (b"transfer-encoding : chunked", b"{chunked}{canary}"),
            "no encoding": (b"transfer-encoding:", b"{canary}"),
            "a size after a space": (_TE, b" {x}\r\n{body}\r\n0\r\n\r\n"),
            "a size before a space": (_TE, b"{x} \r\n{body}\r\n0\r\n\r\n"),
            "a size of C": (_TE, b"0x{x}\r\n{body}\r\n0\r\n\r\n"),
            "a size with a sign": (_TE, b"+{x}\r\n{body}\r\n0\r\n\r\n"),
            "a size that is too large": (_TE, b"{large}\r\n{body}\r\n0\r\n\r\n{canary}"),
            "a size that ends by half": (_TE, b"{x}\n{body}\r\n0\r\n\r\n{canary}"),
            "a chunk that ends by half": (_TE, b"{x}\r\n{body}\n0\r\n\r\n{canary}"),
            "a chunk that is longer": (_TE, b"{x}\r\n{body}x\r\n0\r\n\r\n"),
            "an extension with a line's end": (_TE, b"{x};\n{body}\r\n0\r\n\r\n{canary}"),
            "a trailer with half an end": (_TE, b"{x}\r\n{body}\r\n0\r\nx: y\n\r\n{canary}"),
        }.items()
    },
    "version": {
        "of tomorrow": _version(b"HTTP/1.2"),
        "two": _version(b"HTTP/2.0"),
        "three": _version(b"HTTP/3"),
        "old": _version(b"HTTP/0.9"),
        "lower case": _version(b"http/1.1"),
        "a space": _version(b"HTTP/1.1 "),
        "none": _version(b""),
        "other": _version(b"HTP/1.1"),
    },
    "beginning": {
        "a space": _before(b" "),
        "a tab": _before(b"\t"),
        "a byte order mark": _before(b"\xef\xbb\xbf"),
        "a line": _before(b"x\r\n"),
    },
}
"""Twists after which nothing may be dispatched."""


def twisted(request: Request, chance: Random) -> Request:
    """The request with up to three of its parts twisted; half of them honestly."""
    for part in chance.sample([*NOTHING], chance.randrange(4)):
        honest = part in SAME and chance.random() < 0.75
        twists = SAME[part] if honest else NOTHING[part]
        name = chance.choice([*twists])
        twists[name](request)
        request.twists.append(f"{part}: {name}")
        request.expected = request.expected and honest
    return request
