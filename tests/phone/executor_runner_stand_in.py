"""Stands for ExecuTorch's executor_runner in tests: it sleeps where that runs the model, and logs what that logs."""

import sys
import time
from pathlib import Path

FLAGS = {"model_path": "model.pte", "method_name": "", "num_executions": "1", "cpu_threads": "-1"}
LOG = Path(sys.argv[0]).resolve().parents[4] / "log"


def log(text: str) -> None:
    with LOG.open("a") as file:
        file.write(text + "\n")


for word in sys.argv[1:]:
    name, _, value = word.removeprefix("--").partition("=")
    if name not in FLAGS:
        print(f"ERROR: unknown command line flag '{name}'", file=sys.stderr)
        sys.exit(1)
    FLAGS[name] = value
began = time.perf_counter()
model = Path(FLAGS["model_path"]).read_bytes()
if model[4:6] != b"ET" or FLAGS["method_name"].encode() not in model:
    log(f"Failed to get method_meta for {FLAGS['method_name']}: 0x20")
    sys.exit(134)
log(f"Model loaded in {1e3 * (time.perf_counter() - began):f} ms.")
executions = int(FLAGS["num_executions"])
for index in range(executions):
    start = time.perf_counter()
    time.sleep(0.02 if index == 0 else 0.004 / int(FLAGS["cpu_threads"]))
    log(f"Iteration {index + 1} of {executions}: {1e3 * (time.perf_counter() - start):f} ms")
log(f"Model executed successfully {executions} time(s) in {1e3 * (time.perf_counter() - began):f} ms.")
print("OutputX 0: tensor(sizes=[1, 2], [0.1, 0.2])")
