"""The RPCs of the scheduler: the only place that sees their messages."""

from vlinders_gpu_scheduler.service.picks import PickService
from vlinders_gpu_scheduler.service.workers import WorkerService

__all__ = ["PickService", "WorkerService"]
