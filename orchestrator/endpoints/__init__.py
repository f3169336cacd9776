"""The servers that are asked: where they are, which models they list, what they refuse."""
