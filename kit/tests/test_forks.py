"""Programs that tests start: nothing is collected between the fork and the program."""

import gc
import os


def test_a_fork_collects_no_garbage_and_who_forked_goes_on_to() -> None:
    child = os.fork()
    if child == 0:
        os._exit(int(gc.isenabled()))
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert gc.isenabled()
