"""What other services know of the things in an answer: asked once for all of them, and in bulk."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vlinders_gateway.codec import Codec
from vlinders_gateway.dialects.dialect import Join
from vlinders_gateway.wires import Wires
from vlinders_kit.policies import method_of

Json = Any


class Joined:
    """One join of one operation of one dialect."""

    def __init__(self, join: Join, codec: Codec, wires: Wires) -> None:
        method: Any = method_of(join.rpc)
        self._join = join
        self._codec = codec
        self._wires = wires
        self._domain = method.containing_service.file.package.rpartition(".")[0]
        self._asked = GetMessageClass(method.input_type)
        self._rows = join.rows
        rpc = wires.channels[self._domain].unary_unary
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
        metadata = (self._wires.identity.metadata(self._domain),)
        answer = await self._rpc(request, metadata=metadata, timeout=self._wires.deadline)
        found = {getattr(each, join.by): each for each in getattr(answer, self._rows.name)}
        none = GetMessageClass(self._rows.message_type)()  # type: ignore[arg-type]
        for row, told in zip(rows, shown, strict=True):
            told[join.name] = self._codec.dump(found.get(getattr(row, join.by), none))
