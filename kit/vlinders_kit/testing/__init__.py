"""What tests of every part share: real servers, callers, and peers that answer by script.

The fixtures are in `plugin`, which the top `conftest.py` loads; these are for importing.
"""

from vlinders_kit.testing.callers import CALLER_KEY, a_part, a_user, an_api_key
from vlinders_kit.testing.databases import Cluster, named
from vlinders_kit.testing.peers import Served, scripted, served
from vlinders_kit.testing.pipes import Awaited, PipeFailed, piped

__all__ = [
    "CALLER_KEY",
    "Awaited",
    "Cluster",
    "PipeFailed",
    "Served",
    "a_part",
    "a_user",
    "an_api_key",
    "named",
    "piped",
    "scripted",
    "served",
]
