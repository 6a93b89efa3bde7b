"""Record all cases by hand: ``python -m tests.diagnose.make SUITE FOLDER [CASE...]``.

Leaves FOLDER/SUITE.vtrace and FOLDER/SUITE.json: times, truth and expectations of each case.
``tests.diagnose.verdicts`` holds verdicts against them.
"""

import json
import random
import shutil
import sys
import time
from pathlib import Path

from tests.diagnose.plan import play_all, played_on
from tests.diagnose.stage import Case, Stage
from tests.host.conftest import start_recording, stop_recording
from tests.testbed import Host


def main() -> int:
    suite, folder = sys.argv[1], Path(sys.argv[2])
    names, options = played_on(suite)
    names = tuple(sys.argv[3:]) or names
    folder.mkdir(parents=True, exist_ok=True)
    seed = random.randrange(1 << 30)
    began = time.monotonic()

    def tell(text: object) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)

    def keep(case: Case | str) -> None:
        tell(case)
        cases = [case.to_json() for case in stage.cases.values()]
        (folder / f"{suite}.json").write_text(json.dumps(cases, indent=1))

    tell(f"seed {seed}")
    with Host.boot(suite, say=tell) as host:
        host.sync_source()
        stage = Stage(host, seed, options)
        stage.say = keep
        stage.set_up()
        tell("booted")
        job, _ = start_recording(host)
        tell("attached")
        try:
            play_all(stage, names, lambda name, error: tell(f"{name}: FAILED: {error}"))
        finally:
            tell(stop_recording(host, job))
            shutil.copyfile(host.share / "run.vtrace", folder / f"{suite}.vtrace")
    tell("over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
