"""What a benchmark is: its items, its prompts, how an answer is read and how it is scored. Pure functions."""
