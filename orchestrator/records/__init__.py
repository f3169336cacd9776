"""The records of a run folder: their types, the log, its lock and its one writer."""
