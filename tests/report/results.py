"""Results written by hand in the schema of run.store: the report must read what a run writes."""

from __future__ import annotations

import copy
from typing import Any

from laconic.core.quantities import QUANTITIES
from laconic.report.facts import facts

Json = dict[str, Any]

VALID, TEST = 5000, 10000


def measurement(value: float | None, unit: str, half: float | None = None, *, n: int = 1, note: str = "") -> Json:
    low = None if value is None or half is None else value - half
    high = None if value is None or half is None else value + half
    return {"value": value, "unit": unit, "n": n, "low": low, "high": high, "device": "cpu", "note": note}


TITLES = {"torch": "PyTorch eager", "torchscript": "TorchScript", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def record(key: str, title: str, status: str, runtime: str, precision: str, **facts: Any) -> Json:
    """A record; `facts` are fields of it, or quantities by name."""
    known = {name: facts.pop(name) for name in list(facts) if name in QUANTITIES}
    made = {
        "key": key,
        "title": title,
        "recipe": {
            "steps": [] if status == "baseline" else ["fold_batch_norm"],
            "deploy": {"runtime": runtime, "precision": precision, "threads": 2, "device": "cpu"},
        },
        "runtime": TITLES.get(runtime, ""),
        "status": status,
        "reasons": [],
        "measured": {name: value for name, value in known.items() if value is not None},
        "parity": None,
        "artifact": None,
        "frontier": False,
        "outcomes": [],
        "notes": [],
        "seconds": 0.0,
    }
    return {**made, **facts}


def reason(rule: str, text: str) -> Json:
    return {"rule": rule, "text": text}


def measured(
    p50: float,
    speed: tuple[float, float, float] | None,
    accuracy: float,
    drop: tuple[float, float, float] | None,
    size: int,
    memory: int,
    cold: float,
) -> Json:
    """What a candidate that ran has: p50 in ms, speed-up and drop as (value, low, high), accuracy in %, bytes, cold start in ms."""

    def triple(values: tuple[float, float, float] | None, unit: str, n: int) -> Json | None:
        return values and {"value": values[0], "unit": unit, "n": n, "low": values[1], "high": values[2], "device": "cpu", "note": ""}

    return {
        "latency_ms": measurement(p50, "ms", n=1840),
        "latency_p95_ms": measurement(p50 * 1.14, "ms", n=1840),
        "latency_p99_ms": measurement(p50 * 1.6, "ms", n=1840),
        "speedup": triple(speed, "x", 12),
        "throughput_per_s": measurement(1000 / p50, "1/s", 12 / p50, n=12),
        "metric": measurement(accuracy, "%", 0.92, n=VALID),
        "drop": triple(drop, "points", VALID),
        "size_bytes": measurement(size, "B"),
        "peak_memory_bytes": measurement(memory, "B"),
        "cold_start_ms": measurement(cold, "ms"),
        "parity": speed and {"max_abs": 3.8e-6, "max_rel": 8.1e-7, "n": 256, "tolerance": 1e-4},
        "seconds": 6.4,
    }


FOLDED = {
    "step": "fold_batch_norm",
    "changed": {"batch_norms_folded": 21, "parameters": "272 474 → 271 098"},
    "skipped": [],
    "notes": ["outputs agree to 2e-6"],
}


def candidates() -> list[Json]:
    ort, ov = ("onnxruntime", "openvino")
    folded = [FOLDED]
    return [
        record(
            "openvino-bf16", "OpenVINO · bf16", "passed", ov, "bf16", frontier=True, outcomes=folded, artifact="candidates/openvino-bf16/artifact",
            test_metric=measurement(87.31, "%", 0.66, n=TEST), test_drop=measurement(0.05, "points", 0.12, n=TEST),
            **measured(0.351, (6.93, 6.71, 7.18), 87.48, (-0.04, -0.22, 0.14), 1_118_208, 96_468_992, 312.0),
        ),
        record(
            "onnxruntime-fp32", "ONNX Runtime · fp32", "passed", ort, "fp32", frontier=True, outcomes=folded, artifact="candidates/onnxruntime-fp32/artifact",
            **measured(0.56, (4.36, 4.22, 4.5), 87.44, (0.0, 0.0, 0.0), 1_116_160, 71_303_168, 168.0),
        ),
        record(
            "openvino-fp32", "OpenVINO · fp32", "passed", ov, "fp32", outcomes=folded, artifact="candidates/openvino-fp32/artifact",
            **measured(0.786, (3.1, 3.01, 3.2), 87.44, (0.0, -0.02, 0.02), 1_118_208, 94_371_840, 298.0),
        ),
        record(
            "torchscript-fp32", "TorchScript · fp32", "passed", "torchscript", "fp32", outcomes=folded, artifact="candidates/torchscript-fp32/artifact",
            **measured(1.8, (1.36, 1.29, 1.42), 87.44, (0.0, 0.0, 0.0), 1_196_032, 286_261_248, 2410.0),
        ),
        record(
            "torch-bf16", "PyTorch · bf16", "rejected", "torch", "bf16",
            reasons=[reason("better", "latency is not better than the baseline's: speed-up 0.94 (0.90 to 0.98)")],
            **measured(2.6, (0.94, 0.9, 0.98), 87.4, (0.04, -0.16, 0.24), 1_196_032, 291_504_128, 2230.0),
        ),
        record(
            "torch.compile-fp32", "torch.compile · fp32", "rejected", "torch.compile", "fp32",
            reasons=[reason("better", "the speed-up's interval contains 1: 1.02 (0.97 to 1.08)")],
            **{**measured(2.39, (1.02, 0.97, 1.08), 87.44, (0.0, 0.0, 0.0), 1_196_032, 402_653_184, 34_120.0),
               "throughput_per_s": measurement(None, "1/s", note="the throughput round ran out of time (30 s)")},
        ),
        record("onnxruntime-bf16", "ONNX Runtime · bf16", "unavailable", ort, "bf16",
               reasons=[reason("available", "CPUExecutionProvider has no bf16 kernels for Conv")]),
        record("torchscript-bf16", "TorchScript · bf16", "failed", "torchscript", "bf16", seconds=61.2,
               reasons=[reason("process", "timeout: no answer within 60 s; last line of stderr: 'aten::mkldnn_convolution'")]),
    ]  # fmt: skip


def baseline() -> Json:
    return record(
        "baseline", "PyTorch eager · fp32", "baseline", "torch", "fp32", frontier=True,
        test_metric=measurement(87.36, "%", 0.65, n=TEST),
        **measured(2.44, None, 87.44, None, 1_202_176, 283_115_520, 2180.0),
    )  # fmt: skip


def layers() -> list[Json]:
    """ResNet-20 on 32×32 images: 19 convolutions and the classifier."""
    made = [("conv1", "Conv2d", 448, 442_368)]
    for stage, (width, side) in enumerate([(16, 32), (32, 16), (64, 8)], start=1):
        for block in range(3):
            for conv in (1, 2):
                inputs = width // 2 if stage > 1 and block == 0 and conv == 1 else width
                made.append((f"layer{stage}.{block}.conv{conv}", "Conv2d", 9 * inputs * width + width, 9 * inputs * width * side * side))
    made.append(("fc", "Linear", 650, 640))
    return [dict(zip(("path", "type", "params", "macs"), layer, strict=True)) for layer in made]


def met() -> Json:
    rows = layers()
    return {
        "format": 2, "laconic": "0.1.0", "created": "2026-11-23T08:42:10+00:00", "finished": "2026-11-23T08:43:47+00:00",
        "task": {
            "name": "cifar10@resnet20", "ref": "mypkg.tasks:cifar", "description": "ResNet-20 on 32×32 colour images of ten classes",
            "dataset_note": "CIFAR-10 (JPEG), 45 000 / 5 000 / 10 000, split by seed 0",
            "metric": {"name": "accuracy", "direction": "max", "unit": "%", "scale": 100},
            "n_valid": VALID, "n_test": TEST, "inputs": [{"name": "x", "shape": ["batch", 3, 32, 32], "dtype": "float32"}],
        },
        "budget": {"max_drop": 0.5, "min_speedup": None, "max_latency_ms": None, "max_size_mb": None, "objective": "latency"},
        "met": True, "verdict": "6.9× faster than PyTorch eager at no measurable loss of accuracy: OpenVINO in bf16.",
        "ships": {
            "file": "candidates/openvino-bf16/artifact/model.onnx",
            "code": "inputs = [...]  # arrays or tensors: 'x' float32 ['batch', 3, 32, 32]\nimport laconic as lc\n"
                    "artifact = lc.Artifact.load('candidates/openvino-bf16/artifact')\noutputs = artifact(*inputs)\n",
            "code_without": "file = 'candidates/openvino-bf16/artifact/model.onnx'\ninputs = [...]  # arrays or tensors: 'x' float32 ['batch', 3, 32, 32]\n"
                            "import openvino as ov\ncompiled = ov.Core().compile_model(file, \"CPU\")\noutputs = list(compiled(inputs).values())\n",
        },
        "answers": {
            "n": VALID, "changed": 12, "worse": 4, "better": 6, "form": "classes",
            "classes": [{"class": 3, "n": 512, "changed": 8, "worse": 3, "better": 4}, {"class": 5, "n": 487, "changed": 4, "worse": 1, "better": 2}],
            "flows": [{"from": 3, "to": 5, "n": 7}, {"from": 5, "to": 3, "n": 1}],
        },
        "spread": {"quantiles": [0, 50, 99, 100], "ms": [[2.3, 2.44, 3.1, 9.8], [0.33, 0.351, 0.52, 1.9]]},
        "curve": {"batches": [1, 8, 32], "ms": [[2.44, 11.2, 41.0], [0.351, 1.9, 7.4]], "note": ""},
        "best": "openvino-bf16", "nearest": None, "reason": "", "baseline": baseline(), "candidates": candidates(),
        "layers": rows, "totals": {"params": sum(r["params"] for r in rows), "macs": sum(r["macs"] for r in rows)},
        "unknown_operators": {"aten.grid_sampler_2d": 2},
        "batch": 1,
        "notes": ["the batch is a dynamic dimension; height and width are fixed"],
        "environment": {
            "processor": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "cores": 2,
            "instructions": {"avx2": True, "avx512_vnni": True, "amx_int8": True, "amx_bf16": True, "avx512_bf16": True, "avx512_fp16": False},
            "versions": {"python": "3.11.7", "torch": "2.13.0", "onnx": "1.23.2", "onnxruntime": "1.32.0", "openvino": "2026.4.1"},
            "os": "Linux 6.1.0 (Debian 12)", "threads": 2, "gpu": None,
        },
        "spent": {"train": 31.2, "capture": 1.1, "export": 4.6, "check": 7.9, "time": 38.4, "test": 9.3, "own": 4.3, "total": 96.8},
        "training": [
            {"epoch": e + 1, "loss": 1.9 * 0.55**e + 0.12, "lr": 0.1 * (1 - e / 8), "metric": 88.0 - 41 * 0.5**e, "seconds": 3.9} for e in range(8)
        ],
        "reproduce": {
            "command": "laconic optimize mypkg.tasks:cifar --max-drop 0.5 --seed 0",
            "recipe_yaml": "format: 1\nsteps:\n- fold_batch_norm: {}\ndeploy:\n  runtime: openvino\n  precision: bf16\n  threads: 2\n  device: cpu\n",
        },
    }  # fmt: skip


def not_met() -> Json:
    made = met()
    # the run measures the baseline against itself too; all_failed and the others lack that
    made["baseline"]["measured"].update(speedup=measurement(1.0, "x", 0.0, n=12), drop=measurement(0.0, "points", 0.0, n=VALID))
    made["budget"] = {"max_drop": 0.1, "min_speedup": 8.0, "max_latency_ms": 0.3, "max_size_mb": 2.0, "objective": "latency"}
    made.update(
        met=False, best=None, nearest="openvino-bf16",
        verdict="No candidate met the budget; the nearest miss is OpenVINO in bf16: 6.9× faster where 8× was asked.",
        reason="The fastest candidate reaches 6.93× (6.71 to 7.18) where min_speedup asks for 8, and 0.351 ms where max_latency_ms asks for 0.3.",
    )  # fmt: skip
    for one in made["candidates"]:
        if one["status"] == "passed":
            one["status"] = "rejected"
            one["reasons"] = [
                reason("budget:min_speedup", f"speed-up {one['measured']['speedup']['value']} is less than 8"),
                reason("budget:max_latency_ms", f"median latency {one['measured']['latency_ms']['value']} ms is more than 0.3 ms"),
            ]
    return made


def all_failed() -> Json:
    made = met()
    made.update(
        met=False, best=None, nearest=None, training=[],
        verdict="Nothing better than the baseline: every candidate failed.", reason="All 3 candidates failed before they could be measured.",
    )  # fmt: skip
    texts = ["crash: killed by signal 11", "memory: more than 4.0 GB", "nan: the output of logits is not a number"]
    made["candidates"] = [
        record(f"c{i}", f"Candidate {i}", "failed", "onnxruntime", "fp32", reasons=[reason("process", text)], seconds=3.0)
        for i, text in enumerate(texts)
    ]
    return made


def nothing_available() -> Json:
    made = met()
    made.update(
        met=False,
        best=None,
        nearest=None,
        verdict="Nothing could be tried on this machine.",
        reason="No runtime of the search space is installed.",
    )
    made["candidates"] = [
        record(f"{name}-fp32", f"{title} · fp32", "unavailable", name, "fp32", reasons=[reason("available", f"{name} is not installed")])
        for name, title in [("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")]
    ]
    return made


def only_baseline() -> Json:
    made = met()
    made.update(
        met=False, best=None, nearest=None, candidates=[], verdict="Only the baseline was measured.", reason="The search space was empty."
    )
    made.update(training=[], layers=[], unknown_operators={}, totals={})
    return made


def quantized_outcome() -> Json:
    """What a step left of an encoder of twelve layers and a pooler: 73 linear layers in integers, 38 operators in float."""
    layers = range(12)
    parts = ("attention.query", "attention.key", "attention.value", "attention.output", "intermediate", "output")
    linear = [f"encoder.layer.{i}.{part}" for i in layers for part in parts] + ["pooler"]
    softmax = [{"name": f"encoder.layer.{i}.attention.softmax", "reason": "softmax needs the range of floats"} for i in layers]
    norms = [{"name": f"encoder.layer.{i}.norm", "reason": "layer normalization needs the range of floats"} for i in layers for _ in (1, 2)]
    return {
        "step": "quantize", "section": "quantization", "title": "quantize static", "bits": 8,
        "changed": {
            "mode": "static", "target": "openvino", "operators": linear, "weights": {"bits": 8, "tensors": 74, "reduce_range": True},
            "activations": [{"name": name, "low": -1.5 - i / 4, "high": 2.0 + i / 2, "zero_point": i % 3} for i, name in enumerate(linear)],
            "examples": 256, "smoothed_norms": 24, "corrected_biases": 73,
        },
        "skipped": [
            {"name": "embeddings.norm", "reason": "normalizes what no constant scales"}, *softmax, *norms,
            {"name": "classifier", "reason": "kept: the last layer"},
        ],
        "notes": ["the ranges are moving averages"],
    }  # fmt: skip


def sensitivity() -> list[Json]:
    """In the order of the network; the first and the last operator were kept float."""
    found = [("embed", 11.0, True), ("fc1", 38.5, False), ("fc2", None, False), ("fc3", 24.25, False), ("head", -2.0, True)]
    return [dict(zip(("name", "sqnr_db", "kept_float"), item, strict=True)) for item in found]


def quantized() -> Json:
    """The best is in int8; a second candidate is mixed, with the sensitivity of its operators."""
    made = met()
    mixed = quantized_outcome()
    mixed.update(step="quantize_mixed", title="quantize mixed")
    mixed["changed"].update(operators=["fc1", "fc2", "fc3"], sensitivity=sensitivity())
    del mixed["changed"]["mode"]
    made["candidates"] += [
        record(
            "openvino-int8", "OpenVINO · int8", "passed", "openvino", "int8", outcomes=[quantized_outcome()],
            **measured(0.21, (11.6, 11.2, 12.0), 87.2, (0.24, 0.02, 0.46), 620_000, 88_000_000, 290.0),
        ),
        record(
            "openvino-mixed", "OpenVINO · int8, mixed", "passed", "openvino", "int8", outcomes=[mixed],
            **measured(0.24, (10.2, 9.9, 10.6), 87.3, (0.14, -0.04, 0.32), 700_000, 89_000_000, 291.0),
        ),
    ]  # fmt: skip
    made.update(
        best="openvino-mixed", verdict="10.2× faster than PyTorch eager at no measurable loss of accuracy: OpenVINO in int8, mixed."
    )
    return made


def pruned_outcome() -> Json:
    """A residual net at half its multiply-adds: groups of residual streams and of the insides of blocks."""
    counts = [("conv1", 16, 13, 30)]
    for stage, (width, after) in enumerate([(16, 5), (32, 19), (64, 24)], start=1):
        counts += [(f"layer{stage}.{block}.conv1", width, after + 4 * block, 4) for block in range(3)]
        counts += [(f"layer{stage}.0.conv2", width, width if stage == 1 else after + 12, 18)] * (stage > 1)
    return {
        "step": "prune", "section": "pruning", "title": "prune to 50 % of MACs",
        "changed": {
            "goal": "macs", "share": 0.5, "criterion": "group_l2", "allocation": "global",
            "groups": [dict(zip(("name", "before", "after", "slices"), (n, b, float(a), s), strict=True)) for n, b, a, s in counts],
            "params": [272474, 121050], "macs": [40_813_184, 20_240_128], "difference": 3.1e-7, "loss": [0.2112, 0.4831],
            "epochs": [{"epoch": e, "loss": 0.4 / e, "lr": 0.01 / e, "metric": None, "seconds": 3.5, "round": 1} for e in (1, 2, 3)],
        },
        "skipped": [
            {"name": "fc.weight[0]", "reason": "an output of the model"},
            {"name": "aten.grid_sampler_2d.default", "reason": "has no rule, so what it reads stays"},
        ],
        "notes": [],
    }  # fmt: skip


def pruned() -> Json:
    """The best is pruned and quantized; a faster one is not pruned, and a slower one is pruned alone."""
    made = quantized()
    quantized_too = {**quantized_outcome(), "skipped": []}
    made["candidates"] += [
        record(
            "openvino-half-int8", "prune to 50 % of MACs · quantize static · OpenVINO · fp32", "passed", "openvino", "fp32",
            outcomes=[pruned_outcome(), quantized_too],
            **measured(0.16, (15.2, 14.8, 15.6), 87.1, (0.34, 0.1, 0.58), 300_000, 80_000_000, 280.0),
        ),
        record(
            "openvino-half", "prune to 50 % of MACs · OpenVINO · fp32", "passed", "openvino", "fp32", outcomes=[pruned_outcome()],
            **measured(0.42, (5.8, 5.6, 6.0), 87.2, (0.24, 0.02, 0.46), 500_000, 85_000_000, 285.0),
        ),
    ]  # fmt: skip
    made.update(
        best="openvino-half-int8",
        verdict="15.2× faster than PyTorch eager at 0.34 points of accuracy: OpenVINO, pruned to half and quantized.",
    )
    return made


def hostile() -> Json:
    """Markup in every place that a user can fill."""
    made = met()
    bad = "<script>alert(1)</script>"
    image = '<img src="https://evil.example/x.png" onerror="alert(2)">'
    made["task"].update(name=bad, description=image, dataset_note=bad)
    made["task"]["metric"]["name"] = "<i>f1</i>"
    made.update(verdict=f'Fast {bad} & "good"', reason=image)
    made["candidates"][0].update(title=f"{bad} %{{x}}", notes=["</script><script>alert(3)</script>"])
    made["candidates"][4]["reasons"] = [reason("better", f"{image} <b>slow</b>")]
    made["layers"][0]["path"] = "</script><script>alert(4)</script>"
    made["unknown_operators"] = {bad: 1}
    made["candidates"][0]["outcomes"] = [hostile_pruning(bad, image), hostile_outcome(bad, image)]
    made["reproduce"]["recipe_yaml"] = f"name: {bad}\n"
    made["environment"]["processor"] = image
    return made


def hostile_outcome(bad: str, image: str) -> Json:
    long = [{"name": f"{bad}{i}", "reason": image} for i in range(6)]
    return {
        "step": "quantize", "section": "quantization", "title": "quantize static", "bits": 8,
        "changed": {
            "mode": image, "target": bad, "operators": [bad, image], "weights": {"bits": 8, "tensors": 2, "reduce_range": False}, f"{bad}_n": 3,
            "activations": [{"name": name, "low": -1.0, "high": 1.0, "zero_point": 0} for name in (bad, image)],
            "sensitivity": [{"name": bad, "sqnr_db": 9.0, "kept_float": True}, {"name": image, "sqnr_db": 10.0, "kept_float": False}],
        },
        "skipped": long,
        "notes": [bad],
    }  # fmt: skip


def hostile_pruning(bad: str, image: str) -> Json:
    return {
        "step": "prune", "section": "pruning", "title": "prune to 50 % of MACs",
        "changed": {
            "goal": image, "share": 0.5, "criterion": bad, "allocation": image, "params": [2, 1], "macs": [2, 1], "difference": 0.0,
            "groups": [{"name": name, "slices": 3, "before": 8, "after": 4} for name in (bad, image)], "epochs": [],
        },
        "skipped": [{"name": f"{bad}{i}", "reason": image} for i in range(6)],
        "notes": [image],
    }  # fmt: skip


def searched() -> Json:
    """A run with proposals of a sampler: pruned to many shares, some rounded, in two runtimes; what is pruned more is faster and loses more."""
    made = met()
    spans = [("train", "", 0.0, 31.2), ("check", "baseline", 33.0, 2.0), ("time", "baseline", 35.0, 3.0)]
    for i in range(24):
        macs, runtime, rounded = 0.3 + 0.02 * i, ("openvino", "onnxruntime")[i % 2], i % 3 == 0
        speed, drop = (5 - 4 * macs) * (2 if rounded else 1), 2 * (1 - macs) ** 3
        one = record(
            f"s{i}", f"prune to {100 * macs:.0f} % of MACs{', quantize' * rounded} · {TITLES[runtime]} · fp32", "passed", runtime, "fp32",
            **measured(2.44 / speed, (speed, speed - 0.1, speed + 0.1), 87.44 - drop, (drop, drop - 0.1, drop + 0.1), 400_000 + 20_000 * i, 7e7, 200.0),
        )  # fmt: skip
        one["recipe"]["steps"] = [{"prune": {"macs": macs, "fit": {"epochs": 2 + i % 2}}}, *[{"quantize": {"target": runtime}}] * rounded]
        if drop > 0.5:
            one.update(status="rejected", reasons=[reason("metric", f"a drop of {drop:.2f} points is more than 0.5")])
        made["candidates"].append(one)
        spans += [
            (part, one["key"], 40.0 + 6 * i + at, seconds)
            for part, at, seconds in (("recover", 0, 2.5), ("export", 2.5, 0.5), ("time", 4, 1.5))
        ]
    made["timeline"] = [dict(zip(("part", "of", "start_s", "seconds"), span, strict=True)) for span in spans]
    made["spent"] = {"train": 31.2, "recover": 60.0, "export": 12.0, "check": 2.0, "time": 39.0, "own": 4.3, "total": 190.0}
    return made


RESULTS = {
    "met": met,
    "searched": searched,
    "not-met": not_met,
    "all-failed": all_failed,
    "nothing-available": nothing_available,
    "only-baseline": only_baseline,
    "quantized": quantized,
    "pruned": pruned,
    "hostile": hostile,
}


def named(name: str) -> Json:
    """A fresh copy of the result of that name."""
    return copy.deepcopy(RESULTS[name]())


def section(result: Json, name: str) -> Any:
    """What the report says of the steps of a section."""
    return next(one.facts for one in facts(result).steps if one.name == name)
