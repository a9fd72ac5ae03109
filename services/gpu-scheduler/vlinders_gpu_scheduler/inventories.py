"""Inventories: what a worker says it has, read once into what is asked for again and again."""

from vlinders.gpu_scheduler.v1 import workers_pb2 as pb
from vlinders_gpu_scheduler.workers import Inventory, Offer

_MEASURED = ("memory_free_bytes", "utilization_percent", "temperature_celsius", "power_watts")
"""Fields of a GPU that change with every look: no reason to write anything down."""


def read(inventory: pb.Inventory) -> Inventory:
    offers = tuple(
        Offer(
            slot.id,
            slot.model,
            parallel=max(1, slot.parallel),
            ready=slot.state == pb.Slot.STATE_READY,
        )
        for slot in inventory.slots
    )
    return Inventory(
        offers,
        body=inventory.SerializeToString(),
        lasting=_lasting(inventory),
        pretended=any(gpu.pretended for gpu in inventory.gpus),
    )


def parse(body: bytes) -> Inventory:
    """An inventory as it is kept."""
    return read(pb.Inventory.FromString(body))


def _lasting(inventory: pb.Inventory) -> bytes:
    """The inventory without what changes with every look."""
    rest = pb.Inventory()
    rest.CopyFrom(inventory)
    for gpu in rest.gpus:
        for measured in _MEASURED:
            gpu.ClearField(measured)
    return rest.SerializeToString(deterministic=True)
