"""What runs on the device itself: one job a process, in `python -m edgevlm.onboard`.

The first line of stdin is the job, a JSON object with `job`, its name (`__main__.py` lists them), and what that job
takes. stdout is JSON lines, each with one key:

    {"progress": {"stage": "...", "share": 0.5}}     any number of them; `share` may be null
    {"result": {...}}                                once, at the end; or
    {"error": {"kind": "BundleError", "message": "...", "hint": "..."}}     once, at the end; see `failures.py`

The process ends when stdin does: a device whose host has gone is left alone. It needs Python 3.11 or newer, numpy,
Pillow, the backend, tokenizers for bundles with a text tower, and `edgevlm` itself, whose sources come along.
"""
