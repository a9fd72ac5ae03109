"""`python -m vlinders_worker`: the agent, its settings as options, for people at a host."""

import argparse
import os

from vlinders_worker import main
from vlinders_worker.settings import WorkerSettings


def options() -> argparse.ArgumentParser:
    """An option for each setting; what is not given is read from the setting's variable."""
    parser = argparse.ArgumentParser(
        prog="python -m vlinders_worker",
        description="Joins this host to a Vlinders fleet: runs its engines and serves inference.",
    )
    for (variable, sentence), name in zip(
        WorkerSettings.variables().items(), WorkerSettings.model_fields, strict=True
    ):
        flag = "--" + name.replace("_", "-")
        told = f"{sentence} (variable: {variable})".replace("%", "%%")
        parser.add_argument(flag, dest=variable, metavar="VALUE", help=told)
    return parser


if __name__ == "__main__":
    given = {
        name: value for name, value in vars(options().parse_args()).items() if value is not None
    }
    os.environ.update(given)
    main.run(WorkerSettings.load())
