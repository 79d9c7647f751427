"""Real open weights through diffusers: the only room that imports it."""

import logging

# It warns of torchao 0.16 and later, whose tensors it would allow in pickles; ours are made here.
logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").setLevel(logging.ERROR)
