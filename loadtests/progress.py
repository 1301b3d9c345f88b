"""What a run looks like while it goes on: a bar on a terminal, a line now and then elsewhere."""

import asyncio
import sys

from tqdm import tqdm

from loadtests.answers import ANSWERED, REFUSED
from loadtests.generator import Tally

BAR_INTERVAL_SECONDS = 0.5
LINE_INTERVAL_SECONDS = 5.0


def progress_line(tally: Tally) -> str:
    """The state of a run in one line."""
    return (
        f"sent {tally.sent}, answered {tally.kinds[ANSWERED]}, in flight {tally.in_flight}, "
        f"p99 {tally.p99_seconds() * 1000:.0f} ms, refused {tally.kinds[REFUSED]}, errors {tally.errors}"
    )


async def show_progress(tally: Tally, requests: int) -> None:
    """Show the tally until cancelled."""
    if sys.stderr.isatty():
        await _show_bar(tally, requests)
    else:
        await _show_lines(tally, requests)


async def _show_bar(tally: Tally, requests: int) -> None:
    with tqdm(total=requests, unit="request", dynamic_ncols=True) as bar:
        try:
            while True:
                await asyncio.sleep(BAR_INTERVAL_SECONDS)
                bar.set_postfix_str(progress_line(tally), refresh=False)
                bar.update(len(tally.exchanges) - bar.n)
        finally:
            bar.set_postfix_str(progress_line(tally), refresh=False)
            bar.update(len(tally.exchanges) - bar.n)


async def _show_lines(tally: Tally, requests: int) -> None:
    while True:
        await asyncio.sleep(LINE_INTERVAL_SECONDS)
        print(f"{len(tally.exchanges)}/{requests}: {progress_line(tally)}", file=sys.stderr, flush=True)  # noqa: T201 - it is this module's purpose
