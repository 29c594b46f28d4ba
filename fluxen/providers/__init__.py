"""The providers Fluxen knows (data) and the protocols they speak, one file per dialect. Bytes in, values out."""
