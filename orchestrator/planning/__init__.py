"""How a model is laid out on GPUs: tensor parallel, pipeline parallel, replicas. Pure arithmetic, without Ray."""
