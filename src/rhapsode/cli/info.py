"""rhapsode info"""

from rhapsode.cli import options
from rhapsode.cli.output import print_json, print_table


def info(run: options.Run, json: options.Json = False) -> None:
    """Say what a run is: sizes, data, hardware, versions, results."""
    from rhapsode import api

    result = api.load(run, device="cpu").info()
    (print_json if json else print_table)(result)
