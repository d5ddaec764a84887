"""A reproduction, on rendered scenes, of "Distilling Large Vision-Language Model with Out-of-Distribution
Generalizability" (Li et al., arXiv 2307.03135): python -m edgevlm.benchmarks.ood --out OUT
"""
