"""Every C program under gcc's sanitizers: ``python -m tests.runtime.sanitize [NAME...]``.

Each loss is compiled with a driver that calls it in several threads, on buffers of exactly the size
that it may touch, in each storage type and for several numbers of classes: once with the address
and undefined-behaviour sanitizers, once with the thread sanitizer.  Exit 1 if any
of them reports.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import lossgen
from lossgen import paths
from lossgen.runtime import c_build
from lossgen.runtime.arguments import Variant
from lossgen.runtime.loss import RowLoss

ROWS = 6
CLASSES = (1, 2, 31, 33, 1055)  # around a block of lanes, and around a block of sums
SANITIZERS = ("address,undefined", "thread")

DRIVER = """
#include <stdio.h>

static double drawn(void) {{ return 0.1 + 0.8 * (double)rand() / RAND_MAX; }}

static void *numbers(int64_t n, int64_t storage) {{
    if (storage == SAME) {{
        real *found = malloc((size_t)n * sizeof(real));
        for (int64_t i = 0; i < n; ++i) found[i] = (real)drawn();
        return found;
    }}
    uint16_t *found = malloc((size_t)n * sizeof(uint16_t));
    for (int64_t i = 0; i < n; ++i) {{
        const float value = (float)drawn();
        found[i] = storage == BFLOAT16 ? to_bfloat(value) : to_half(value);
    }}
    return found;
}}

static int failed;

static void run(int64_t classes, int64_t storage) {{
    void *stream[{streams}], *grad[{grads}];
    real *input[{inputs} + 1];
    int64_t stream_stride[{streams}], grad_stride[{grads}], input_stride[{inputs} + 1];
    const int row_input[] = {{{row_inputs}0}};
    const double parameter[] = {{{parameters}0}};
    int64_t *target = malloc({rows} * sizeof(int64_t));
    for (int k = 0; k < {streams}; ++k) {{
        stream[k] = numbers({rows} * classes, storage);
        stream_stride[k] = classes;
    }}
    for (int k = 0; k < {grads}; ++k) {{
        grad[k] = numbers({rows} * classes, storage);
        grad_stride[k] = classes;
    }}
    for (int k = 0; k < {inputs}; ++k) {{
        input[k] = numbers(row_input[k] ? {rows} : classes, SAME);
        input_stride[k] = 1;
    }}
    for (int i = 0; i < {rows}; ++i) target[i] = rand() % classes;
    target[1] = -100, target[2] = classes;
    real *result = numbers({outputs} * {rows}, SAME), *saved = numbers({saved} * {rows}, SAME);
    real *grad_rows = numbers({outputs} * {rows}, SAME);
    const Call call = {{.rows = {rows}, .classes = classes, .ignore_index = -100,
        .target_stride = 1, .storage = storage, .target = target,
        .stream = (const void *const *)stream, .stream_stride = stream_stride,
        .input = (const real *const *)input, .input_stride = input_stride, .parameter = parameter,
        .result = result, .saved = saved, .grad_rows = grad_rows, .grad_rows_stride = 1,
        .grad_outputs_stride = {rows}, .grad = grad, .grad_stride = grad_stride}};
    Rows *const programs[] = {{forward, backward, fused}};
    for (int k = 0; k < 3; ++k) failed |= in_shares(&call, programs[k], 1, 4, NULL);
    if ({outputs} == 1) {{
        real scale;
        double total;
        target[2] = 0;
        Job job = {{.call = call, .rows = fused, .step = 1, .threads = 4, .weight = 1.0,
            .divisor = 3, .scale = &scale, .total = &total, .total_is_double = 1}};
        job.call.grad_rows_stride = 0;
        for (job.divided = 0; job.divided < 2; ++job.divided) failed |= sum_rows(&job) != 0;
        job.rows = forward, job.n_saved = {saved}, job.weight = job.divided = 0;
        failed |= sum_rows(&job) != 0;
        job.call.result = result, job.call.saved = saved;
        failed |= run_rows(&job) != 0;
    }}
    for (int k = 0; k < {streams}; ++k) free(stream[k]);
    for (int k = 0; k < {grads}; ++k) free(grad[k]);
    for (int k = 0; k < {inputs}; ++k) free(input[k]);
    free(target), free(result), free(saved), free(grad_rows);
}}

int main(void) {{
    const int64_t classes[] = {{{classes}}};
    for (size_t k = 0; k < sizeof classes / sizeof *classes; ++k)
        for (int64_t storage = SAME; storage <= FLOAT16; ++storage) run(classes[k], storage);
    return failed;
}}
"""


def program(loss: RowLoss, variant: Variant) -> str:
    """The loss and its driver."""
    kinds = {i.name: i.kind for i in loss.inputs}
    default = {p.name: p.default for p in loss.parameters}
    parameters = [float(default[name]) for name in variant.parameters]
    return variant.c_source + DRIVER.format(
        rows=ROWS,
        streams=1 + len(variant.streams),
        grads=1 + sum(i.differentiable for i in loss.streams),
        inputs=len(variant.inputs),
        row_inputs="".join(f"{int(kinds[n] == 'row')}, " for n in variant.inputs),
        parameters="".join(f"{'INFINITY' if math.isinf(v) else v}, " for v in parameters),
        outputs=max(1, len(loss.outputs)),
        saved=max(1, variant.n_saved),
        classes=", ".join(str(n) for n in CLASSES if n >= loss.min_classes),
    )


def clean(text: str, sanitizer: str, folder: Path) -> str:
    """What the sanitizer says; nothing where it is content."""
    compiler = c_build.find_compiler()
    assert compiler is not None, "no C compiler"
    source, out = folder / "driver.c", folder / "driver"
    source.write_text(text, encoding="utf-8")
    flags = [f for f in c_build.FLAGS if f not in ("-O3", "-shared")]
    flags += ["-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    where = [f"-I{c_build.HEADERS}", str(source), "-o", str(out), "-lm", "-lpthread"]
    subprocess.run([*compiler.command, *flags, *where], check=True)
    # The thread sanitizer wants addresses where it expects them.
    setarch = shutil.which("setarch")
    command = [setarch, "-R", str(out)] if setarch else [str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"exit {done.returncode}\n{done.stderr[-3000:]}"


def cases(names: list[str]) -> Iterator[tuple[str, str, str]]:
    """Name of a program, its text, a sanitizer."""
    for name in names:
        loss = lossgen.load(name).LOSS
        for k, variant in enumerate(loss.variants):
            for sanitizer in SANITIZERS:
                yield f"{name}, variant {k}", program(loss, variant), sanitizer


def report(case: tuple[str, str, str]) -> str:
    """What is said of one case; nothing where it is clean."""
    name, text, sanitizer = case
    with tempfile.TemporaryDirectory() as folder:
        said = clean(text, sanitizer, Path(folder))
    return said and f"{name}, -fsanitize={sanitizer}: {said}"


def main(names: list[str]) -> int:
    with ThreadPool(os.cpu_count()) as pool:
        reports = pool.map(report, cases(names or list(paths.spec_names())), chunksize=1)
    for said in filter(None, reports):
        print(said)
    print(f"{reports.count('')} of {len(reports)} programs ran clean")
    return int(any(reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
