"""The RPCs of prices."""

from typing import Any

from grpc.aio import ServicerContext

from vlinders.billing.v1 import prices_pb2 as pb
from vlinders.billing.v1.prices_pb2_grpc import PriceServiceServicer
from vlinders_billing import price_versions
from vlinders_billing.price_versions import Wanted
from vlinders_billing.prices import Price
from vlinders_kit.db import Database
from vlinders_kit.messages import to_message


class PriceService(PriceServiceServicer):
    def __init__(self, db: Database) -> None:
        self.db = db

    async def PutPrices(
        self, request: pb.PutPricesRequest, context: ServicerContext[Any, Any]
    ) -> pb.PutPricesResponse:
        wanted = [
            Wanted(row.model, Price(row.input_nanos, row.cached_input_nanos, row.output_nanos))
            for row in request.prices
        ]
        async with self.db.begin() as tx:
            versions = await price_versions.put(tx, wanted)
        return pb.PutPricesResponse(prices=[to_message(pb.Price, row) for row in versions])

    async def ListPrices(
        self, request: pb.ListPricesRequest, context: ServicerContext[Any, Any]
    ) -> pb.ListPricesResponse:
        async with self.db.begin() as tx:
            versions = await price_versions.in_force(tx)
        return pb.ListPricesResponse(prices=[to_message(pb.Price, row) for row in versions])
