"""Model families with published weights, one folder each; the only package that imports diffusers."""

import logging

# diffusers warns that it cannot allow tensors of torchao 0.16 and later in pickles; longtake reads no pickled ones.
logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").setLevel(logging.ERROR)
