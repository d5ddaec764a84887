"""Runs a Core ML ML Program numerically on any machine that has torch.

Apple's runtime exists on Apple's systems only, so elsewhere a converted model could be shipped but not checked.
This package reads an `.mlpackage` as the format's specification describes it and evaluates the program op by
op. What it shows is that the *program* computes what the model computed; how a given device rounds, fuses or
reorders those ops is not modelled, and no figure from here may be called a device's.

    dtypes     element types: names, storage, codes in the files
    weights    weight.bin: one record a blob
    package    Manifest.json and the spec, as plain dataclasses; needs coremltools' generated protobuf classes
    ops/       one function an op, by kind of op; needs torch
    evaluator  planning and running
    opsets     from which system on each op can be written, and coverage: what shows that it is computed
    deployment advice on a package before it meets a device; the facts behind it, and their sources, are in facts

Format: https://apple.github.io/coremltools/mlmodel/Format/MIL.html
"""
