"""What a text tells of a model: which inputs matter, and how much a quant of it loses."""
