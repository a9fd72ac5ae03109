"""What other services know of the things in an answer: asked once for all of them, and in bulk."""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects.dialect import Join
from vlinders_kit.callers import Identity
from vlinders_kit.policies import method_of

Json = Any


class Joined:
    """One join of one operation of one dialect."""

    def __init__(
        self,
        join: Join,
        codec: Codec,
        channels: Mapping[str, grpc.aio.Channel],
        identity: Identity,
        deadline: float,
    ) -> None:
        method: Any = method_of(join.rpc)
        self._join = join
        self._codec = codec
        self._identity = identity
        self._domain = method.containing_service.file.package.rpartition(".")[0]
        self._deadline = deadline
        self._asked = GetMessageClass(method.input_type)
        self._rows = join.rows
        rpc = channels[self._domain].unary_unary
        self._rpc: Any = rpc(
            join.rpc,
            request_serializer=self._asked.SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )

    async def onto(self, rows: Sequence[Message], shown: Sequence[dict[str, Json]]) -> None:
        """Puts what is known of each of `rows` into what is shown of it."""
        join = self._join
        ids = sorted({getattr(row, join.by) for row in rows})
        if not ids:
            return
        request: Any = self._asked()
        getattr(request, request.DESCRIPTOR.fields[0].name).extend(ids)
        metadata = (self._identity.metadata(self._domain),)
        answer = await self._rpc(request, metadata=metadata, timeout=self._deadline)
        found = {getattr(each, join.by): each for each in getattr(answer, self._rows.name)}
        none = GetMessageClass(self._rows.message_type)()  # type: ignore[arg-type]
        for row, told in zip(rows, shown, strict=True):
            told[join.name] = self._codec.dump(found.get(getattr(row, join.by), none))
