"""From a training's spec to verl's keys and Ray's placement."""
