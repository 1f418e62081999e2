"""Whom to cite for a gradient estimator, as BibTeX, by its name. Without torch."""

_EWGS = """@inproceedings{lee2021ewgs,
  title = {Network Quantization with Element-wise Gradient Scaling},
  author = {Lee, Junghyup and Kim, Dohyung and Ham, Bumsub}, booktitle = {CVPR}, year = {2021}, eprint = {2104.00903}
}"""
_STE = """@misc{bengio2013ste,
  title = {Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation},
  author = {Bengio, Yoshua and L{\\'e}onard, Nicholas and Courville, Aaron}, year = {2013}, eprint = {1308.3432}
}"""
_QEA = """@misc{tesfai2023,
  author = {Tesfai and others}, year = {2023},
  note = {a reading of their quantization-error-aware gradient: the published formula was not available to tersenet}
}"""
_DSQ = """@inproceedings{gong2019dsq,
  title = {Differentiable Soft Quantization: Bridging Full-Precision and Low-Bit Neural Networks},
  author = {Gong, Ruihao and Liu, Xianglong and Jiang, Shenghu and Li, Tianxiang and Hu, Peng and Lin, Jiazhen and Yu,
            Fengwei and Yan, Junjie}, booktitle = {ICCV}, year = {2019}, eprint = {1908.05033}
}"""
ESTIMATORS = {
    "ste": _STE,
    "clipped": _STE,
    "ewgs": _EWGS,
    "ewgs-hessian": _EWGS,
    "qea": _QEA,
    "qea-project": _QEA,
    "dsq": _DSQ,
    "stacked-sigmoid": "",  # nobody's by name: a sigmoid in every cell
}


def reference_of(estimator: str) -> str:
    """The BibTeX of an estimator, with or without its constants; "" for one that is not known.

    >>> reference_of("ewgs:delta=0.1").splitlines()[0]
    '@inproceedings{lee2021ewgs,'
    """
    return ESTIMATORS.get(estimator.partition(":")[0], "")
