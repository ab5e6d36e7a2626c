"""Model files made from other files: which quant each tensor gets, and the writing of GGUF."""
